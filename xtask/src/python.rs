//! The Python package: an environment below the target directory, the package installed into it once, and
//! the checks and tests that run there.
//!
//! What a bare machine lacks is installed if that may be done. If Python cannot be had, that is said, and the
//! rest is checked all the same; but in CI it is a failure, for there nobody would read it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::prepare;
use crate::step::{self, command, works};

const PACKAGE: &str = "crates/lockmgr-python";
const REQUIREMENTS: &str = "crates/lockmgr-python/tests/requirements.txt";
const BENCH_REQUIREMENTS: &str = "crates/lockmgr-python/bench/requirements.txt";

/// A virtual environment that has what the checks need.
pub(crate) struct Environment {
    bin: PathBuf,
}

impl Environment {
    /// Makes the environment if need be. `None`, having said so, if there is no Python for it.
    pub(crate) fn prepare() -> Result<Option<Self>> {
        let place = step::target_dir()?.join("python/venv");
        match Self::at(&place) {
            Ok(environment) => Ok(Some(environment)),
            Err(error) if env::var_os("CI").is_some() => {
                Err(error.context("the Python package cannot be checked"))
            }
            Err(error) => {
                eprintln!("xtask: SKIPPED: the Python package is not checked: {error:#}");
                Ok(None)
            }
        }
    }

    fn at(place: &Path) -> Result<Self> {
        let environment = Self { bin: place.join("bin") };
        if !works(environment.python("-m pip --version")) {
            make(place)?;
        }
        environment.require(REQUIREMENTS)?;
        Ok(environment)
    }

    /// Installs what a file lists, unless that was done.
    fn require(&self, list: &str) -> Result<()> {
        let wanted = fs::read_to_string(step::root().join(list))
            .with_context(|| format!("cannot read {list}"))?;
        let name = list.replace('/', "-");
        let installed = self.bin.join(format!("../installed-{name}"));
        if fs::read_to_string(&installed).is_ok_and(|installed| installed == wanted) {
            return Ok(());
        }
        step::run(self.python(&format!("{PIP} --requirement {list}")))?;
        fs::write(&installed, wanted).context("cannot write into the environment")
    }

    /// Returns `python WORDS…` of the environment.
    pub(crate) fn python(&self, words: &str) -> Command {
        let mut python = command(self.bin.join("python"), words);
        // Other places are not to take part.
        python.env_remove("PYTHONPATH").env_remove("PYTHONHOME");
        python
    }

    /// Builds the package and installs it, with the command `lockmgr`.
    fn install(&self, profile: &str) -> Result<()> {
        let mut install = self.python(&format!("{PIP} --force-reinstall ."));
        install.env("MATURIN_PEP517_ARGS", format!("--profile {profile}"));
        step::run(install)
    }

    /// What needs no build: formatting, lints, types.
    pub(crate) fn lint(&self) -> Result<()> {
        step::run(
            self.python(&format!("-m ruff format --check --quiet {PACKAGE} examples/python")),
        )?;
        step::run(self.python(&format!("-m ruff check --quiet {PACKAGE} examples/python")))?;
        let typed = format!("{PACKAGE}/python/lockmgr {PACKAGE}/tests/typed_filelock.py");
        step::run(self.python(&format!("-m mypy {typed} examples/python")))
    }

    /// The stubs against the module, then the tests.
    pub(crate) fn test(&self, arguments: &[String]) -> Result<()> {
        self.install("dev")?;
        if arguments.is_empty() {
            let known = format!("{PACKAGE}/tests/stubtest-allowlist.txt");
            step::run(self.python(&format!("-m mypy.stubtest lockmgr --allowlist {known}")))?;
        }
        let mut tests = self.python("-m pytest --quiet --numprocesses auto");
        tests.args(arguments);
        step::run(tests)
    }

    /// The tables of what the package costs, beside its peers.
    pub(crate) fn bench(&self, quick: bool) -> Result<String> {
        self.require(BENCH_REQUIREMENTS)?;
        self.install("release")?;
        let quick = if quick { " --quick" } else { "" };
        step::output_of(self.python(&format!("{PACKAGE}/bench/bench.py{quick}")))
    }
}

const PIP: &str = "-m pip install --quiet --disable-pip-version-check";

/// Makes an environment with the first Python that can, installing what that needs if it may.
fn make(place: &Path) -> Result<()> {
    let attempt = |python: &Path| {
        // What is there is of another Python, or half done.
        let mut make = command(python, "-m venv --clear");
        make.arg(place);
        step::run(make)
    };
    let mut pythons = pythons();
    if pythons.iter().any(|python| attempt(python).is_ok()) {
        return Ok(());
    }
    // Debian's Python comes without the module.
    if prepare::may_install() && prepare::install("python3-venv") {
        pythons = self::pythons();
        if pythons.iter().any(|python| attempt(python).is_ok()) {
            return Ok(());
        }
    }
    ensure!(
        !pythons.is_empty(),
        "there is no CPython from 3.10 on; install python3 and python3-venv, or set PYTHON"
    );
    bail!("no virtual environment can be made; install python3-venv, or set PYTHON to one that can")
}

/// Returns the interpreters that are new enough, the wanted one first.
fn pythons() -> Vec<PathBuf> {
    let wanted = env::var_os("PYTHON").map(PathBuf::from);
    let names = ["python3", "python3.14", "python3.13", "python3.12", "python3.11", "python3.10"];
    wanted
        .into_iter()
        .chain(names.map(PathBuf::from))
        .filter(|python| {
            let mut probe = command(python, "-c");
            probe.arg("import sys; sys.exit(sys.version_info < (3, 10))");
            works(probe)
        })
        .collect()
}
