//! Kill lists: many entries removed by one record of 16 bytes each.
//!
//! Rolled forward like a batch, one journalled step an entry.

use crate::engine::ledger::{Ledger, Replaced};
use crate::engine::room::{Lane, Room};
use crate::engine::store::{Proof, Store};
use crate::error::Result;
use crate::format::bucket::{self, Place, is_whole};
use crate::format::header::{self as layout, Address};
use crate::format::record::{Draft, Kind, Standing};
use crate::format::segment::Summary;
use crate::part::keymap::Keymap;

impl Store {
    /// Removes the listed versions, by one record. Returns how many entries went.
    pub(crate) fn kill(&self, proof: &mut Proof, victims: &[(u64, u64)]) -> Result<u64> {
        if victims.is_empty() {
            return Ok(0);
        }
        self.make_graves(proof, victims.len().min(layout::GRAVES as usize) as u64)?;
        let value: Vec<u8> = victims
            .iter()
            .flat_map(|(hash, seq)| [hash.to_le_bytes(), seq.to_le_bytes()])
            .flatten()
            .collect();
        let draft = Draft {
            kind: Kind::Kill,
            value: &value,
            ..self.blank_draft()
        };
        let len = draft.len(false) as u64;
        let room = self.room(proof, Lane::Log, len, 1, true)?;
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
        self.roll_kill(victims, &room, place, len, seq, 0)
    }

    pub(super) fn roll_kill(
        &self,
        victims: &[(u64, u64)],
        room: &Room,
        place: Place,
        len: u64,
        seq: u64,
        done: u64,
    ) -> Result<u64> {
        if done == 0 {
            let mut ledger = Ledger::new(&self.files);
            ledger.journal.header(layout::PENDING_DONE_AT, 1);
            ledger.tail(room, place, len, 1, place, seq);
            ledger.journal.commit(&self.files, &self.dir)?;
        }
        let mut removed = 0;
        for (n, &(hash, victim)) in victims
            .iter()
            .enumerate()
            .skip(done.saturating_sub(1) as usize)
        {
            let mut ledger = Ledger::new(&self.files);
            if let Some((address, old, space)) = self.version(hash, victim)? {
                ledger.rows(None, Some(old))?;
                ledger.space(space, -1, -(old.volume as i64));
                ledger.grave(Some(old), seq);
                let used = self.files.header.number(layout::KEYMAP_USED_AT);
                ledger
                    .journal
                    .header(layout::KEYMAP_USED_AT, used.saturating_sub(1));
                ledger.journal.put(address, 0);
                removed += 1;
            }
            ledger.journal.header(layout::PENDING_DONE_AT, n as u64 + 2);
            ledger.journal.commit(&self.files, &self.dir)?;
        }
        self.end_pending()?;
        Ok(removed)
    }

    /// The word that leads to version `seq` of a key with `hash`, and what that version is.
    fn version(&self, hash: u64, seq: u64) -> Result<Option<(Address, Replaced, u32)>> {
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
                return Ok(Some((
                    address,
                    Replaced::of_head(&head, place),
                    head.options.space,
                )));
            }
        }
        Ok(None)
    }
}
