//! `lockmgr lab`, all of it.

use crate::cli::LabArgs;
use crate::exit::{self, Failure, Status};
use crate::show;

use super::{all, ask};

pub(crate) fn lab(args: &LabArgs) -> Result<Status, Failure> {
    let mut as_expected = true;
    for probe in all() {
        if !args.probes.is_empty() && !args.probes.iter().any(|name| name == probe.name) {
            continue;
        }
        for subject in probe.subjects() {
            if let Some(m) = subject
                && !args.mechanism.is_empty()
                && !args.mechanism.contains(m)
            {
                continue;
            }
            let answer = ask(&probe, *subject, &args.dir, args.deadline, None);
            let met = probe.expectation(*subject).is_met_by(answer.verdict);
            as_expected &= met;
            show::write(&format!(
                "{} {} {} {} {} {:?}\n",
                probe.name,
                subject.map(|m| m.to_string()).unwrap_or_default(),
                answer.verdict,
                if met { "ok" } else { "UNEXPECTED" },
                answer.summary,
                answer.took
            ))?;
            if args.explain {
                for s in answer.steps {
                    show::write(&format!(
                        "   {:4} {}  => {}\n",
                        s.who,
                        s.what,
                        s.outcome.unwrap_or_default()
                    ))?;
                }
            }
        }
    }
    Ok(if as_expected { exit::OK } else { 1 })
}
