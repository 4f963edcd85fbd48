//! The processes of an import, seen from the one that starts them.
//!
//! Owns how they are started, heard and waited for; none outlives what started it.
//! Never looks at the tree or the store.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::ffi::OsStringExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use super::report::Report;
use super::walk::Source;
use crate::failure::{Failure, Result};

/// The processes at work; those that are left are ended when this is dropped.
pub(crate) struct Workers {
    children: Vec<Child>,
    reports: mpsc::Receiver<Report>,
}

impl Workers {
    pub(crate) fn start(source: &Source, jobs: u16) -> Result<Self> {
        let (sender, reports) = mpsc::channel();
        let mut workers = Self {
            children: Vec::new(),
            reports,
        };
        for index in 0..jobs {
            let mut child = start_one(source, index, jobs)
                .map_err(|cause| Failure::new(format!("cannot start an importer: {cause}")))?;
            let lines = child.stdout.take().map(BufReader::new);
            workers.children.push(child);
            let sender = sender.clone();
            thread::spawn(move || pass_on(lines.into_iter().flat_map(BufReader::lines), &sender));
        }
        Ok(workers)
    }

    /// Everything the processes say, until the last of them is done.
    pub(crate) fn reports(&self) -> impl Iterator<Item = Report> {
        self.reports.iter()
    }

    /// Waits for all of them; `outcome` is what was made of their reports.
    pub(crate) fn finish(mut self, outcome: Result<()>) -> Result<()> {
        outcome?;
        for mut child in self.children.drain(..) {
            let status = child
                .wait()
                .map_err(|cause| Failure::new(format!("cannot wait for an importer: {cause}")))?;
            if !status.success() {
                return Err(Failure::new(format!(
                    "an importer was ended ({status}); run the import again to complete it"
                )));
            }
        }
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may be gone already; either way nothing more comes from it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start_one(source: &Source, index: u16, jobs: u16) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .env("LARDER_STORE", source.store())
        .arg("import-worker");
    command
        .arg(format!("--index={index}"))
        .arg(format!("--jobs={jobs}"));
    // In one word with its name, so that a prefix may begin with a dash.
    let prefix = [b"--prefix=", source.prefix()].concat();
    command
        .arg(OsString::from_vec(prefix))
        .arg("--")
        .arg(source.root());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()
}

/// The reports of one process, in order; ends with its output.
fn pass_on(lines: impl Iterator<Item = io::Result<String>>, sender: &mpsc::Sender<Report>) {
    for line in lines {
        let report = match line {
            Ok(line) => Report::parse(&line).unwrap_or(Report::Fatal {
                why: format!("an importer said {line:?}"),
            }),
            Err(cause) => Report::Fatal {
                why: format!("cannot hear an importer: {cause}"),
            },
        };
        if sender.send(report).is_err() {
            return;
        }
    }
}
