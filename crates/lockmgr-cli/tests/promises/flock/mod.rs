//! Called as `flock`, the program is flock(1) of util-linux: compared with the installed original
//! where that has the feature, and with its description (docs/flock.md) where it is too old for that.

mod better;
mod both;
mod command_line;
mod generated;
mod newer;
mod scenes;
mod strict;
mod translation;
