//! What cannot be seen from outside: order lists stay short, and counters are made anew after damage.

use super::*;
use crate::engine::sync;
use crate::format::header::space;
use crate::view::deque::shape::Spot;

fn cells(deque: &Deque<u32>, wing: Wing) -> u64 {
    let store = deque.cache.store().expect("a store");
    store.files.space(deque.spaces.of(wing), space::CELLS)
}

fn densify_step(deque: &Deque<u32>) -> bool {
    let store = deque.cache.store().expect("a store");
    sync::locked_for_upkeep(store, None, |store, proof| store.densify_step(proof)).expect("a step")
}

/// As damage and a repair would.
fn lose(deque: &Deque<u32>, wing: Wing, depth: u64) -> Result<()> {
    let entries = deque.cache.in_space(deque.spaces.of(wing));
    assert!(entries.delete(Spot { wing, depth }.key())?);
    Ok(())
}

fn holds(deque: &Deque<u32>, wanted: &[u32]) -> Result<()> {
    assert_eq!(deque.to_vec()?, wanted);
    for (index, wanted) in (0..).zip(wanted) {
        assert_eq!(deque.get(index)?, Some(*wanted), "index {index}");
    }
    assert!(deque.cache.check()?.is_sound());
    Ok(())
}

#[test]
fn elements_lost_to_damage_leave_the_others_where_they_are() -> Result<()> {
    let deque = Deque::<u32>::temporary()?;
    let mut wanted: Vec<u32> = (0..300).collect();
    deque.extend(&wanted)?;
    for lost in [0, 1, 64, 65, 128, 200, 201, 299] {
        lose(&deque, Wing::Back, lost)?;
        wanted.retain(|&one| u64::from(one) != lost);
    }
    holds(&deque, &wanted)?;
    // Among elements that were removed.
    for index in [250, 100, 64, 3] {
        assert_eq!(deque.remove(index)?, Some(wanted.remove(index as usize)));
    }
    lose(&deque, Wing::Back, 150)?;
    wanted.retain(|&one| one != 150);
    deque.push_back(&1_000)?;
    wanted.push(1_000);
    holds(&deque, &wanted)?;
    while let Some(back) = deque.pop_back()? {
        assert_eq!(Some(back), wanted.pop());
        assert_eq!(
            deque.pop_front()?,
            (!wanted.is_empty()).then(|| wanted.remove(0))
        );
    }
    let notes = deque.cache.in_space(deque.spaces.notes);
    assert_eq!(
        (wanted.len(), notes.len()?),
        (0, 0),
        "nothing is left behind"
    );
    Ok(())
}

#[test]
fn an_order_list_is_as_long_as_it_has_to_be() -> Result<()> {
    let deque = Deque::<u32>::temporary()?;
    deque.extend([1, 2, 3])?;
    for round in 0..10_000 {
        deque.push_back(&round)?;
        assert_eq!(deque.pop_back()?, Some(round));
    }
    assert!(cells(&deque, Wing::Back) <= 4);
    for round in 0..20_000 {
        deque.push_back(&round)?;
        assert!(deque.pop_front()?.is_some());
    }
    assert!(
        cells(&deque, Wing::Back) < 8_192,
        "a denser list takes its place"
    );
    deque.clear()?;
    for round in 0..100 {
        deque.push_front(&round)?;
        assert_eq!(deque.pop_back()?, Some(round));
    }
    assert!(cells(&deque, Wing::Front) <= 1);
    assert!(deque.cache.check()?.is_sound());
    Ok(())
}

#[test]
fn a_denser_list_misses_nothing_when_cells_are_handed_out_again() -> Result<()> {
    let deque = Deque::<u32>::temporary()?;
    // Sparse, without a step of its own: few new cells at a time.
    let mut wanted: Vec<u32> = (0..5_000).collect();
    deque.extend(&wanted)?;
    for index in (0..4_900).rev() {
        deque.remove(index + 10)?;
        wanted.remove(index as usize + 10);
    }
    let first: Vec<bool> = (0..2).map(|_| densify_step(&deque)).collect();
    assert_eq!(first, [true, true], "it is under way");
    // Back to before what was read, and on again with others.
    while wanted.len() > 5 {
        assert_eq!(deque.pop_back()?, wanted.pop());
    }
    for number in 10_000..10_500 {
        deque.push_back(&number)?;
        wanted.push(number);
    }
    while densify_step(&deque) {}
    holds(&deque, &wanted)
}
