//! Tag names and their ids: entries of the inner space, remembered by each handle.
//!
//! Never removes one: ids stay what they are.

use std::collections::HashMap;
use std::sync::RwLock;

use crate::engine::store::{INNER_SPACE, Store};
use crate::error::{Error, Result};
use crate::format::bucket::Place;
use crate::part::lists;

/// Tag names and their ids, as far as this handle has met them; they never change.
#[derive(Debug, Default)]
pub(crate) struct TagNames {
    ids: RwLock<HashMap<Vec<u8>, u32>>,
    names: RwLock<HashMap<u32, Vec<u8>>>,
}

/// The inner key under which a tag's id is kept.
pub(crate) fn tag_key(name: &[u8]) -> Vec<u8> {
    [b"t/", name].concat()
}

/// The inner key under which a tag's name is kept.
pub(crate) fn tag_id_key(id: u32) -> Vec<u8> {
    format!("i/{id}").into_bytes()
}

impl Store {
    /// The id of a tag; `None`: nobody has used it yet.
    pub(crate) fn tag_id(&self, name: &[u8]) -> Result<Option<u32>> {
        if let Some(&id) = self
            .tags
            .ids
            .read()
            .unwrap_or_else(|poison| poison.into_inner())
            .get(name)
        {
            return Ok(Some(id));
        }
        let key = tag_key(name);
        let mut buffer = Vec::new();
        let Some(hit) = self.find(
            INNER_SPACE,
            &key,
            self.hash.of(INNER_SPACE, &key),
            &mut buffer,
        )?
        else {
            return Ok(None);
        };
        let id = hit.value(&buffer).try_into().map(u32::from_le_bytes).ok();
        if let Some(id) = id {
            self.remember_tag(name, id);
        }
        Ok(id)
    }

    /// The first tag id that has no list: whatever the header says, none past the table of lists has one.
    pub(crate) fn tags_end(&self) -> u32 {
        let next = self.files.header.number(crate::format::header::NEXT_TAG_AT);
        next.min(lists::tags_max(&self.files)) as u32
    }

    /// Space for the row of a tag. Under the lock.
    pub(crate) fn reserve_tag(&self, id: u32) -> Result<()> {
        self.took(lists::reserve_rows(&self.files, &self.dir, id)?);
        Ok(())
    }

    /// The tag ids of the record at a place; none where it cannot be read.
    pub(crate) fn tags_at(&self, place: Place) -> Result<Vec<u32>> {
        match self.segments.get(&self.files, &self.dir, place.slot)? {
            Some(segment) => segment.read_tags(&self.dir, place.at),
            None => Ok(Vec::new()),
        }
    }

    pub(crate) fn remember_tag(&self, name: &[u8], id: u32) {
        self.tags
            .ids
            .write()
            .unwrap_or_else(|poison| poison.into_inner())
            .insert(name.to_vec(), id);
        self.tags
            .names
            .write()
            .unwrap_or_else(|poison| poison.into_inner())
            .insert(id, name.to_vec());
    }

    /// The name of a tag by its id.
    pub(crate) fn tag_name(&self, id: u32) -> Result<Vec<u8>> {
        if let Some(name) = self
            .tags
            .names
            .read()
            .unwrap_or_else(|poison| poison.into_inner())
            .get(&id)
        {
            return Ok(name.clone());
        }
        let key = tag_id_key(id);
        let mut buffer = Vec::new();
        match self.find(
            INNER_SPACE,
            &key,
            self.hash.of(INNER_SPACE, &key),
            &mut buffer,
        )? {
            Some(hit) => {
                let name = hit.value(&buffer).to_vec();
                self.remember_tag(&name, id);
                Ok(name)
            }
            None => Err(Error::corrupt(
                self.dir.path(),
                0,
                format!("the name of tag {id} is lost"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::format::header::NEXT_TAG_AT;
    use crate::part::lists;
    use crate::{Cache, SetOptions};

    #[test]
    fn tags_end_where_their_table_ends_whatever_the_header_says() {
        let cache = Cache::temporary().expect("opens");
        let tagged = SetOptions::default().tag("a tag");
        cache.set_with("key", "value", &tagged).expect("set");
        let store = cache.store().expect("open");
        assert_eq!(store.tags_end(), 2);
        for wrong in [u64::from(u32::MAX), u64::MAX] {
            store.files.header.put(NEXT_TAG_AT, wrong);
            assert!(u64::from(store.tags_end()) <= lists::ROWS_MIN);
            assert_eq!(cache.tags().expect("told").len(), 1);
            cache.check().expect("checked");
        }
    }
}
