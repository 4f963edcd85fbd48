//! The names of a store's files, made and read in one place. Never opens one.
//!
//! | name           | what                                        | truth or derived |
//! |----------------|---------------------------------------------|------------------|
//! | `ID.seg`       | a segment of the log, ID in 16 hex digits   | truth            |
//! | `ID.val`       | a large value's own file                    | truth            |
//! | `ID.tmp`       | a value being streamed in                   | nobody's         |
//! | `larder`       | the header: identity, shared words          | derived          |
//! | `keymap.G`     | buckets, generation G                       | derived          |
//! | `over.G`       | overflow buckets                            | derived          |
//! | `segs.G`       | the segment table                           | derived          |
//! | `lists.G`      | rows of the tags' and expiry lists          | derived          |
//! | `posts.G`      | blocks of those lists                       | derived          |
//! | `ghost.G`      | fingerprints of what was culled             | derived          |
//! | `order-S.N`    | insertion order of space S, N-th of its kind| derived          |
//! | `gate`, `p-I`  | locks: who decides trust, who lives         | empty            |
//! | `pin`          | shared by who needs files to stay           | empty            |
//! | `holds`        | byte-range locks of `Cache::hold`           | empty            |
//! | `damaged/`     | what a repair set aside; never read         | nobody's         |
//!
//! In the directory of a store of several shards, each in a directory of its own:
//!
//! | name           | what                                        |
//! |----------------|---------------------------------------------|
//! | `fanout`       | how many shards, of which generation        |
//! | `fanout.new`   | the same on its way                         |
//! | `fanout.gate`  | a lock: who makes or changes the shards     |
//! | `G-NNN/`       | shard NNN of generation G                   |
//! | `cache/NAME/`  | a store of its own                          |

/// What a file in a store's directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    Header,
    Gate,
    Holds,
    Pin,
    Participant(usize),
    Segment(u64),
    Value(u64),
    Streaming(u64),
    Keymap(u64),
    Overflow(u64),
    Segments(u64),
    Lists(u64),
    Posts(u64),
    Ghost(u64),
    Order { space: u32, generation: u64 },
    Fanout,
    FanoutNew,
    FanoutGate,
}

/// The directory of a shard.
pub(crate) fn shard(generation: u64, index: usize) -> String {
    format!("{generation}-{index:03}")
}

/// The generation and index of a shard whose directory is called `text`; `None`: it is none.
pub(crate) fn parse_shard(text: &str) -> Option<(u64, usize)> {
    let (generation, index) = text.split_once('-')?;
    let parsed = (generation.parse().ok()?, index.parse().ok()?);
    (shard(parsed.0, parsed.1) == text).then_some(parsed)
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Name::Header => f.write_str("larder"),
            Name::Gate => f.write_str("gate"),
            Name::Holds => f.write_str("holds"),
            Name::Pin => f.write_str("pin"),
            Name::Fanout => f.write_str("fanout"),
            Name::FanoutNew => f.write_str("fanout.new"),
            Name::FanoutGate => f.write_str("fanout.gate"),
            Name::Participant(index) => write!(f, "p-{index:03}"),
            Name::Segment(id) => write!(f, "{id:016x}.seg"),
            Name::Value(id) => write!(f, "{id:016x}.val"),
            Name::Streaming(id) => write!(f, "{id:016x}.tmp"),
            Name::Keymap(generation) => write!(f, "keymap.{generation}"),
            Name::Overflow(generation) => write!(f, "over.{generation}"),
            Name::Segments(generation) => write!(f, "segs.{generation}"),
            Name::Lists(generation) => write!(f, "lists.{generation}"),
            Name::Posts(generation) => write!(f, "posts.{generation}"),
            Name::Ghost(generation) => write!(f, "ghost.{generation}"),
            Name::Order { space, generation } => write!(f, "order-{space}.{generation}"),
        }
    }
}

impl Name {
    /// What `text` names; `None`: not one of ours.
    pub(crate) fn parse(text: &str) -> Option<Name> {
        let name = match text {
            "larder" => Name::Header,
            "gate" => Name::Gate,
            "holds" => Name::Holds,
            "pin" => Name::Pin,
            "fanout" => Name::Fanout,
            "fanout.new" => Name::FanoutNew,
            "fanout.gate" => Name::FanoutGate,
            _ if text.starts_with("p-") => Name::Participant(text[2..].parse().ok()?),
            _ => {
                let (stem, end) = text.split_once('.')?;
                let id = || u64::from_str_radix(stem, 16).ok();
                match (stem, end) {
                    (_, "seg") => Name::Segment(id()?),
                    (_, "val") => Name::Value(id()?),
                    (_, "tmp") => Name::Streaming(id()?),
                    ("keymap", end) => Name::Keymap(end.parse().ok()?),
                    ("over", end) => Name::Overflow(end.parse().ok()?),
                    ("segs", end) => Name::Segments(end.parse().ok()?),
                    ("lists", end) => Name::Lists(end.parse().ok()?),
                    ("posts", end) => Name::Posts(end.parse().ok()?),
                    ("ghost", end) => Name::Ghost(end.parse().ok()?),
                    (stem, end) => {
                        let space = stem.strip_prefix("order-")?.parse().ok()?;
                        Name::Order {
                            space,
                            generation: end.parse().ok()?,
                        }
                    }
                }
            }
        };
        (name.to_string() == text).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::Name;

    #[test]
    fn names_come_back_and_near_misses_are_not_ours() {
        for name in [
            Name::Header,
            Name::Gate,
            Name::Holds,
            Name::Participant(7),
            Name::Segment(u64::MAX),
            Name::Value(1),
            Name::Streaming(0xAB),
            Name::Keymap(3),
            Name::Overflow(3),
            Name::Segments(12),
            Name::Lists(1),
            Name::Posts(1),
            Name::Ghost(2),
            Name::Pin,
            Name::Fanout,
            Name::FanoutNew,
            Name::FanoutGate,
            Name::Order {
                space: 0,
                generation: 9,
            },
        ] {
            assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
        for bad in [
            "",
            "p-7",
            "p-0007",
            "AB.seg",
            "ab.seg",
            "keymap.",
            "keymap.03",
            "order-.1",
            "larder2",
            "x.val",
            "keymap.-1",
        ] {
            assert_eq!(Name::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn shards_are_told_by_their_directories() {
        for (generation, index) in [(1, 0), (12, 7), (u64::MAX, 255)] {
            let text = super::shard(generation, index);
            assert_eq!(super::parse_shard(&text), Some((generation, index)));
        }
        for bad in [
            "",
            "1-1",
            "01-001",
            "1-0001",
            "-001",
            "order-001",
            "p-001",
            "1-",
            "1-00x",
        ] {
            assert_eq!(super::parse_shard(bad), None, "{bad}");
        }
    }
}
