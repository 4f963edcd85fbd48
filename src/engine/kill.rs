//! Kill lists: many entries removed by one record of 16 bytes each.
//!
//! Rolled forward like a batch, one journalled step an entry.

use crate::engine::doomed::{Doomed, Naming};
use crate::engine::ledger::{Ledger, Replaced};
use crate::engine::postings::tag_steps;
use crate::engine::read::Hit;
use crate::engine::room::{Lane, Room};
use crate::engine::store::{Proof, Store};
use crate::error::{Error, Result};
use crate::format::bucket::{self, Place, is_whole};
use crate::format::header::{self as layout, Address};
use crate::format::names::{NAMES_MAX, rows_len, to_rows};
use crate::format::record::{Draft, Kind, Standing, tags_of};
use crate::format::segment::Summary;
use crate::part::keymap::Keymap;
use crate::part::lists::Posting;

/// Tags whose rows change in one journal.
pub(super) const TAGS_AT_ONCE: usize = 36;
/// Journals one victim takes at most: a thousand tags in pieces.
const TAG_STEPS: u64 = 32;
const _: () = assert!(TAG_STEPS as usize * TAGS_AT_ONCE > crate::limits::TAGS_MAX);

/// Victims of one record: each may leave a value file, which needs a grave.
const VICTIMS_AT_ONCE: usize = layout::GRAVES as usize;

/// The rows of an entry's tags, when it goes.
pub(super) fn untag(ledger: &mut Ledger<'_>, tags: &[u32], old: &Replaced) -> Result<()> {
    for step in tag_steps((tags, old.volume), (&[], 0), false) {
        ledger.tag(step, Posting::new(0, 0))?;
    }
    Ok(())
}

/// Where a kill list stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct KillRecord {
    pub(super) place: Place,
    pub(super) len: u64,
    pub(super) seq: u64,
}

/// A version found under the lock, to be removed under the same.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    hash: u64,
    address: Address,
    old: Replaced,
    space: u32,
    tags: Vec<u32>,
}

impl Version {
    /// Its record is in `buffer`.
    pub(crate) fn of(hit: &Hit<'_>, hash: u64, buffer: &[u8]) -> Version {
        Version {
            hash,
            address: hit.address(),
            old: Replaced::of(hit),
            space: hit.head.options.space,
            tags: tags_of(&hit.head, buffer).collect(),
        }
    }

    pub(crate) fn seq(&self) -> u64 {
        self.old.seq
    }
}

impl Store {
    /// Removes the listed versions. Returns how many entries went.
    pub(crate) fn kill(&self, proof: &mut Proof, doomed: &Doomed) -> Result<u64> {
        let mut removed = 0;
        self.kill_all(proof, &doomed.pairs, &[], &doomed.naming, &mut removed)?;
        Ok(removed)
    }

    /// As [`Store::kill`], for versions whose words are known; `naming` has their names, if any. `removed`
    /// grows by those that went, also when others could not.
    pub(crate) fn kill_versions(
        &self,
        proof: &mut Proof,
        versions: &[Version],
        naming: &Naming,
        removed: &mut u64,
    ) -> Result<()> {
        let victims: Vec<_> = versions
            .iter()
            .map(|version| (version.hash, version.old.seq))
            .collect();
        self.kill_all(proof, &victims, versions, naming, removed)
    }

    /// By as many records as it takes.
    fn kill_all(
        &self,
        proof: &mut Proof,
        mut victims: &[(u64, u64)],
        mut versions: &[Version],
        naming: &Naming,
        removed: &mut u64,
    ) -> Result<()> {
        let mut names = naming.names();
        while !victims.is_empty() {
            let mut count = victims.len().min(VICTIMS_AT_ONCE);
            let mut len = 0;
            if let Some(over) = names.iter().take(count).position(|name| {
                len += rows_len(name.len());
                len > NAMES_MAX
            }) {
                count = over;
            }
            let (some, rest) = victims.split_at(count);
            let (known, unknown) = versions.split_at(count.min(versions.len()));
            let (named, unnamed) = names.split_at(count.min(names.len()));
            let named = to_rows(named.iter().map(Vec::as_slice));
            *removed += match self.kill_some(proof, some, known, (naming, &named)) {
                // What is kept free for removing is not for names: whoever watches is told of a gap.
                Err(Error::Full { .. } | Error::NoSpace { .. }) if !named.is_empty() => {
                    self.kill_some(proof, some, known, (naming, &[]))?
                }
                done => done?,
            };
            (victims, versions, names) = (rest, unknown, unnamed);
        }
        Ok(())
    }

    fn kill_some(
        &self,
        proof: &mut Proof,
        victims: &[(u64, u64)],
        versions: &[Version],
        (naming, names): (&Naming, &[u8]),
    ) -> Result<u64> {
        let known = versions.iter().filter(|one| one.old.apart.is_some());
        let graves = if versions.is_empty() {
            victims.len()
        } else {
            known.count()
        };
        self.make_graves(proof, graves as u64)?;
        let value: Vec<u8> = victims
            .iter()
            .flat_map(|(hash, seq)| [hash.to_le_bytes(), seq.to_le_bytes()])
            .flatten()
            .collect();
        let draft = Draft {
            kind: Kind::Kill,
            value_kind: naming.cause as u8,
            key: names,
            value: &value,
            ..self.blank_draft()
        };
        let len = draft.len(false) as u64;
        let room = self.room(proof, Lane::Log, len, 1, names.is_empty())?;
        let seq = self.committed() + 1;
        proof.dirty = true;
        proof.scratch.clear();
        draft.encode(
            room.segment.seed,
            room.at,
            Standing {
                seq,
                order: seq,
                batch: None,
                untags: false,
            },
            &mut proof.scratch,
        );
        room.segment.write(room.at, &proof.scratch);
        room.segment.write_summary(
            room.index,
            &Summary {
                seq,
                kind: draft.kind.into(),
                hash: 0,
                at: room.at,
            },
        );
        let place = Place {
            slot: room.segment.slot,
            at: room.at,
        };
        // No count is foretold: entries go one by one.
        self.decide(place, room.at + len, victims.len() as u64, u64::MAX, 0);
        proof.dirty = false;
        self.logged(len);
        let list = KillRecord { place, len, seq };
        self.roll_kill(victims, versions, &room, list, 0)
    }

    pub(super) fn roll_kill(
        &self,
        victims: &[(u64, u64)],
        versions: &[Version],
        room: &Room,
        KillRecord { place, len, seq }: KillRecord,
        done: u64,
    ) -> Result<u64> {
        if done == 0 {
            let mut ledger = Ledger::new(&self.files);
            ledger.journal.header(layout::PENDING_DONE_AT, 1);
            ledger.tail(room, place, len, 1, place, seq);
            ledger.journal.commit(&self.files, &self.dir)?;
        }
        let mut removed = 0;
        let begun = done.saturating_sub(1);
        for (n, &(hash, victim)) in victims
            .iter()
            .enumerate()
            .skip((begun / TAG_STEPS) as usize)
        {
            let first = 1 + n as u64 * TAG_STEPS;
            let mut found = None;
            let known = versions.get(n);
            if known.is_none() {
                found = self.version(hash, victim)?;
            }
            if let Some(version) = known.or(found.as_ref()) {
                let Version {
                    address,
                    old,
                    space,
                    tags,
                    ..
                } = version;
                let (many, few) = tags.split_at(tags.len().saturating_sub(TAGS_AT_ONCE));
                for (step, tags) in many.chunks(TAGS_AT_ONCE).enumerate() {
                    let at = first + step as u64;
                    if done <= at {
                        let mut ledger = Ledger::new(&self.files);
                        untag(&mut ledger, tags, old)?;
                        ledger.journal.header(layout::PENDING_DONE_AT, at + 1);
                        ledger.journal.commit(&self.files, &self.dir)?;
                    }
                }
                let mut ledger = Ledger::new(&self.files);
                untag(&mut ledger, few, old)?;
                self.unpoint_killed(&mut ledger, *address, *old, *space, seq)?;
                ledger
                    .journal
                    .header(layout::PENDING_DONE_AT, first + TAG_STEPS);
                ledger.journal.commit(&self.files, &self.dir)?;
                removed += 1;
            }
        }
        self.end_pending()?;
        Ok(removed)
    }

    /// An entry that goes without a record of its own: everything but its tags.
    pub(super) fn unpoint_killed(
        &self,
        ledger: &mut Ledger<'_>,
        address: Address,
        old: Replaced,
        space: u32,
        seq: u64,
    ) -> Result<()> {
        ledger.rows(None, Some(old))?;
        ledger.space(space, -1, -(old.volume as i64));
        ledger.grave(Some(old), seq);
        let used = self.files.header.number(layout::KEYMAP_USED_AT);
        ledger
            .journal
            .header(layout::KEYMAP_USED_AT, used.saturating_sub(1));
        ledger.journal.put(address, 0);
        Ok(())
    }

    /// The word that leads to version `seq` of a key with `hash`, and what that version is.
    fn version(&self, hash: u64, seq: u64) -> Result<Option<Version>> {
        let keymap = Keymap::of(&self.files);
        let mut words = Vec::new();
        keymap.words(keymap.split().bucket(hash), |address, word| {
            if is_whole(word) && bucket::may_be(word, hash) {
                words.push((address, word));
            }
        })?;
        for (address, word) in words {
            let Some(place) = bucket::place(word) else {
                continue;
            };
            let Some(segment) = self.segments.get(&self.files, &self.dir, place.slot)? else {
                continue;
            };
            let Some(head) = segment.read_head(&self.dir, place.at)? else {
                continue;
            };
            if head.seq == seq && head.kind == Kind::Set {
                return Ok(Some(Version {
                    hash,
                    address,
                    old: Replaced::of_head(&head, place),
                    space: head.options.space,
                    tags: match head.options.tag_count {
                        0 => Vec::new(),
                        _ => segment.read_tags(&self.dir, place.at)?,
                    },
                }));
            }
        }
        Ok(None)
    }
}
