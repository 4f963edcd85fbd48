//! The command `reshard`: another number of shards for a store that is divided.
//!
//! Owns how it is told, while it goes on and at its end. Never looks at an entry.

use std::io::Write as _;
use std::ops::ControlFlow;

use larder::Fanout;

use crate::Answer;
use crate::args::Reshard;
use crate::failure::Result;
use crate::progress::Progress;
use crate::store::Place;
use crate::upkeep::print;

pub(crate) fn reshard(place: &Place, args: &Reshard) -> Result<Answer> {
    let progress = Progress::of_time("copying");
    let done = Fanout::reshard_with(place.path(), args.shards.into(), |now| {
        progress.tell(|| format!("copying: {} of {} entries", now.entries, now.entries_max));
        ControlFlow::Continue(())
    });
    drop(progress);
    let report = done?;
    print(|output| {
        if args.json {
            let line = serde_json::json!({
                "before": report.before,
                "after": report.after,
                "entries": report.entries,
            });
            return writeln!(output, "{line}");
        }
        match report.before == report.after {
            true => writeln!(output, "it has {} shards already", report.after),
            false => writeln!(
                output,
                "{} shards instead of {}; {} entries copied",
                report.after, report.before, report.entries
            ),
        }
    })
}
