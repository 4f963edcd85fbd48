//! What keeping a store small costs: how near the limit it stays, what is written twice, who waits.
//!
//! Prints one Markdown table: a line for each figure that has a target, with PASS or FAIL. What explains
//! a figure stands above it. `cargo bench --bench upkeep -- [bound] [amplification] [stalls] [costs]`
//! measures those cells, or all; `--dir DIR` says where the stores lie (under the build directory, which
//! should be on a disk), `--scale X` does X times as much in `bound` and for X times as long in
//! `stalls`, `--test` runs everything once and tiny.

use std::path::{Path, PathBuf};

#[path = "../common/mod.rs"]
mod common;

mod amplification;
mod bound;
mod costs;
mod histogram;
mod stalls;

use common::Scale;

/// The stores' limit, except where one must hold more.
const SIZE_LIMIT_BYTES: u64 = 256 << 20;

/// How much is done, and where.
struct Run {
    dir: PathBuf,
    small: bool,
    scale: f64,
}

impl Run {
    /// An empty directory of this name.
    fn fresh(&self, name: &str) -> PathBuf {
        common::empty(&self.dir.join(name))
    }

    fn size_limit_bytes(&self) -> u64 {
        if self.small {
            SIZE_LIMIT_BYTES / 16
        } else {
            SIZE_LIMIT_BYTES
        }
    }
}

/// A figure, and what it should be.
struct Line {
    what: String,
    figure: String,
    target: &'static str,
    /// `None`: told, not judged.
    holds: Option<bool>,
}

#[derive(Default)]
struct Table {
    lines: Vec<Line>,
}

impl Table {
    fn add(
        &mut self,
        what: impl Into<String>,
        figure: impl Into<String>,
        target: &'static str,
        holds: bool,
    ) {
        self.push(what.into(), figure.into(), target, Some(holds));
    }

    /// A figure without a target.
    fn tell(&mut self, what: impl Into<String>, figure: impl Into<String>) {
        self.push(what.into(), figure.into(), "", None);
    }

    fn push(&mut self, what: String, figure: String, target: &'static str, holds: Option<bool>) {
        eprintln!("{what}: {figure}");
        self.lines.push(Line {
            what,
            figure,
            target,
            holds,
        });
    }

    fn print(&self) {
        println!("\n| what | measured | target | |\n|---|---:|---:|---|");
        for line in &self.lines {
            let verdict = match line.holds {
                Some(true) => "PASS",
                Some(false) => "FAIL",
                None => "",
            };
            println!(
                "| {} | {} | {} | {verdict} |",
                line.what, line.figure, line.target
            );
        }
    }
}

fn argument(name: &str) -> Option<String> {
    std::env::args()
        .skip_while(|argument| argument != name)
        .nth(1)
}

/// Milliseconds, for tables.
fn ms_text(nanoseconds: u64) -> String {
    format!("{:.3} ms", nanoseconds as f64 / 1e6)
}

/// The name of a cell, and what measures it.
type Cell = (&'static str, fn(&Run, &mut Table));

const CELLS: [Cell; 4] = [
    ("bound", bound::measure),
    ("amplification", amplification::measure),
    ("stalls", stalls::measure),
    ("costs", costs::measure),
];

fn main() {
    bound::be_a_writer_if_told();
    let scale =
        argument("--scale").map_or(1.0, |text| text.parse().expect("--scale takes a number"));
    let dir = match argument("--dir") {
        Some(root) => {
            let name = format!("larder-bench-upkeep-{}", std::process::id());
            common::empty(&Path::new(&root).join(name))
        }
        None => common::scratch("upkeep"),
    };
    let run = Run {
        dir,
        small: Scale::from_arguments().small,
        scale,
    };
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let is_asked = |name: &str| asked.iter().any(|argument| argument == name);
    let all = CELLS.iter().all(|(name, _)| !is_asked(name));
    let mut table = Table::default();
    for (name, measure) in CELLS {
        if all || is_asked(name) {
            measure(&run, &mut table);
        }
    }
    table.print();
    std::fs::remove_dir_all(&run.dir).expect("the bench's directory is ours");
}
