//! The background worker: one for each store among all processes that ask for one.
//!
//! Owns the word that names it. It does what `maintain` does, a little at a time; when its process dies
//! another takes over. Writers do without it, only later. Never holds the store open.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::engine::store::Store;
use crate::engine::upkeep::Budget;
use crate::format::header as layout;
use crate::part::shared::setting;
use crate::part::writer_lock;

/// How long the worker goes on before it looks whether it is still wanted.
const TURN: Duration = Duration::from_millis(20);
/// Between two looks at a store that may soon be full, and at one that will not.
const PAUSE_NEAR: Duration = Duration::from_millis(5);
const PAUSE_FAR: Duration = Duration::from_millis(100);

impl Store {
    /// Makes this handle the one that maintains, if nobody alive is.
    fn become_keeper(&self) -> bool {
        let word = self.files.header.word(layout::KEEPER_AT);
        let mine = writer_lock::name_of(&self.me);
        let owner = word.load(Ordering::Acquire);
        if owner == mine {
            return true;
        }
        (owner == 0 || self.is_dead(owner))
            && word
                .compare_exchange(owner, mine, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// Forgets a worker that is dead, so that writers wait for nobody.
    pub(crate) fn forget_dead_keeper(&self) {
        let word = self.files.header.word(layout::KEEPER_AT);
        let owner = word.load(Ordering::Acquire);
        if owner != 0 && self.is_dead(owner) {
            let _ = word.compare_exchange(owner, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// This handle maintains no more.
    pub(crate) fn retire_keeper(&self) {
        let word = self.files.header.word(layout::KEEPER_AT);
        let mine = writer_lock::name_of(&self.me);
        let _ = word.compare_exchange(mine, 0, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// Starts the thread that maintains a store while a handle of this process has it open.
pub(crate) fn start(store: &Arc<Store>) {
    let weak = Arc::downgrade(store);
    let spawned = std::thread::Builder::new()
        .name("larder-upkeep".into())
        .spawn(move || {
            let mut pause = PAUSE_NEAR;
            loop {
                std::thread::sleep(pause);
                let Some(store) = weak.upgrade() else { return };
                if store.is_forked() {
                    return;
                }
                if !store.become_keeper() {
                    pause = PAUSE_FAR;
                    continue;
                }
                // What fails is met, and told, by writers and by the next flush.
                let budget = Budget::default().time(TURN);
                let done = store.maintain(&budget, Some(Duration::from_secs(1)), &mut |_| {
                    ControlFlow::Continue(())
                });
                let limit = store.files.header.setting(setting::SIZE_LIMIT);
                pause = match done {
                    Ok(report) if !report.is_over => Duration::ZERO,
                    Ok(_) if store.disk_bytes() > limit / 2 => PAUSE_NEAR,
                    _ => PAUSE_FAR,
                };
            }
        });
    // Without a thread writers do it all.
    drop(spawned);
}
