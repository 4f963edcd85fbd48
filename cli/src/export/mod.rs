//! The command `export`: writes the tree that `import` stored back to a directory.
//!
//! Owns the order: all directories, then files, then links, and the modes of directories last, the
//! deepest first, so that neither a link nor a mode is in the way of what comes after it.
//! Never resolves a path itself; see `target`.

mod plan;
mod target;

use std::io::{self, Write as _};
use std::path::{Path, absolute};

use larder::Cache;

use self::plan::{Leaf, Plan};
use self::target::{Target, Trouble};
use crate::args;
use crate::entries::bytes;
use crate::failure::{Failure, Result, damage, say};
use crate::progress::Progress;
use crate::store::Place;
use crate::tree::Node;
use crate::{Answer, escape};

pub(crate) fn export(place: &Place, args: &args::Export, escaped: bool) -> Result<Answer> {
    let prefix = bytes(&args.prefix, escaped)?;
    let cache = place.open()?;
    if is_inside(&args.dir, place.path()) {
        return Err(Failure::new(format!(
            "{} lies in the store itself",
            args.dir.display()
        )));
    }
    let target = Target::open(&args.dir, args.force)?;
    let plan = Plan::of(&cache, &prefix)?;
    let mut export = Export::new(cache, target, Progress::of_bytes("exporting", plan.bytes()));
    for (key, why) in &plan.refused {
        export.leave(format_args!("refused key \"{}\": {why}", escape::text(key)));
    }
    for what in &plan.damaged {
        export.leave(format_args!("{what}"));
    }
    let made = export.make_dirs(&plan)?;
    for leaf in &plan.files {
        export.leaf(leaf)?;
    }
    for leaf in &plan.links {
        export.leaf(leaf)?;
    }
    export.set_dir_modes(&made)?;
    export.tell()
}

/// Whether the target, made or still to be made, is the store's directory or lies below it.
pub(crate) fn is_inside(dir: &Path, store: &Path) -> bool {
    let (Ok(dir), Ok(store)) = (absolute(dir), store.canonicalize()) else {
        return false;
    };
    let there = dir.ancestors().find_map(|above| above.canonicalize().ok());
    there.is_some_and(|there| there.starts_with(store))
}

struct Export {
    cache: Cache,
    target: Target,
    progress: Progress,
    written: u64,
    bytes: u64,
    left: u64,
}

impl Export {
    fn new(cache: Cache, target: Target, progress: Progress) -> Self {
        Self {
            cache,
            target,
            progress,
            written: 0,
            bytes: 0,
            left: 0,
        }
    }

    /// The ones that are there now and have a mode to be set, in order of their paths.
    fn make_dirs<'a>(&mut self, plan: &'a Plan) -> Result<Vec<(&'a [u8], u32)>> {
        let mut made = Vec::new();
        for (path, mode) in &plan.dirs {
            // The root is there.
            let outcome = match path.is_empty() {
                true => Ok(()),
                false => self.target.make_dir(path, mode.is_some()),
            };
            match outcome {
                Ok(()) => made.extend(mode.map(|mode| (path.as_slice(), mode))),
                Err(trouble) => self.trouble(path, trouble)?,
            }
        }
        self.written += made.len() as u64;
        Ok(made)
    }

    /// A directory comes before what is in it, so backwards is the deepest first.
    fn set_dir_modes(&mut self, made: &[(&[u8], u32)]) -> Result<()> {
        for (path, mode) in made.iter().rev() {
            if let Err(trouble) = self.target.set_dir_mode(path, *mode) {
                self.trouble(path, trouble)?;
            }
        }
        Ok(())
    }

    /// A file or a link.
    fn leaf(&mut self, leaf: &Leaf) -> Result<()> {
        let mut value = match self.cache.get_reader(&leaf.key) {
            Ok(Some(value)) => value,
            // Removed or expired since the plan was made: then it is not to be there.
            Ok(None) => return Ok(()),
            Err(error) => {
                let what = damage(error)?;
                self.leave(format_args!("{}: {what}", escape::text(&leaf.path)));
                return Ok(());
            }
        };
        let outcome = match leaf.node {
            Node::Symlink => self.target.make_symlink(&leaf.path, &mut value),
            Node::File { mode } | Node::Dir { mode } => {
                self.target.write_file(&leaf.path, mode, &mut value)
            }
        };
        self.progress.advance(leaf.bytes);
        match outcome {
            Ok(()) => {
                self.written += 1;
                self.bytes += leaf.bytes;
                Ok(())
            }
            Err(trouble) => self.trouble(&leaf.path, trouble),
        }
    }

    /// One entry is left out, unless there is no use in going on.
    fn trouble(&mut self, path: &[u8], trouble: Trouble) -> Result<()> {
        let path = escape::text(path);
        match trouble {
            Trouble::Value(cause) => {
                self.leave(format_args!("cannot read the value for {path}: {cause}"))
            }
            Trouble::File(cause) if cause.kind() == io::ErrorKind::StorageFull => {
                return Err(Failure::new(format!("cannot write {path}: {cause}")));
            }
            Trouble::File(cause) => self.leave(format_args!("cannot write {path}: {cause}")),
        }
        Ok(())
    }

    fn leave(&mut self, why: std::fmt::Arguments<'_>) {
        self.left += 1;
        self.progress.say(why);
    }

    fn tell(self) -> Result<Answer> {
        let Self {
            progress,
            written,
            bytes,
            left,
            ..
        } = self;
        drop(progress);
        writeln!(io::stdout(), "{written} entries, {bytes} bytes")
            .map_err(|cause| Failure::output(&cause))?;
        if left > 0 {
            say(format_args!("{left} were left out"));
        }
        Ok(Answer::yes_if(left == 0))
    }
}
