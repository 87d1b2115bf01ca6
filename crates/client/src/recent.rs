//! What several followers in a process were told in the same words is read once.
//!
//! Each follower has its own client, its own rights and its own watch, as if it were alone. A change reaches all of them within moments, so what
//! was read last is kept for that long: by its kind and revision it is found, and by its text it is known to be the same, for a watch that
//! selects is told of an object that leaves it under the revision at which another watch has it changed.

use std::any::{Any, TypeId};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// An object of the kind that is followed.
pub type Whole = Arc<dyn Any + Send + Sync>;

/// The objects of so many bytes of text are kept: what a hundred slices or so are.
const KEPT: usize = 256 << 10;

type Name = (TypeId, String);

#[derive(Default)]
struct Recent {
    read: HashMap<Name, (String, Whole)>,
    /// What is in `read`, the oldest first.
    order: VecDeque<Name>,
    bytes: usize,
}

fn recent() -> MutexGuard<'static, Recent> {
    static RECENT: OnceLock<Mutex<Recent>> = OnceLock::new();
    // A poisoned lock means that somebody panicked while he held plain data: the data are whole.
    RECENT.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// The object that `text` is; `parse` is asked when no other follower has read it just now.
pub fn read<E>(
    kind: TypeId,
    revision: String,
    text: String,
    parse: impl FnOnce(&str) -> Result<Whole, E>,
) -> Result<Whole, E> {
    let name = (kind, revision);
    let known = recent().find(&name, &text);
    match known {
        Some(object) => Ok(object),
        None => {
            let object = parse(&text)?;
            recent().keep(name, text, &object);
            Ok(object)
        }
    }
}

impl Recent {
    fn find(&self, name: &Name, text: &str) -> Option<Whole> {
        self.read.get(name).filter(|(known, _)| known == text).map(|(_, object)| Arc::clone(object))
    }

    fn keep(&mut self, name: Name, text: String, object: &Whole) {
        if text.len() > KEPT || self.read.contains_key(&name) {
            return;
        }
        self.bytes += text.len();
        self.order.push_back(name.clone());
        self.read.insert(name, (text, Arc::clone(object)));
        while self.bytes > KEPT
            && let Some((text, _)) = self.order.pop_front().and_then(|oldest| self.read.remove(&oldest))
        {
            self.bytes -= text.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    struct Kind;
    struct Other;

    fn parsed(text: &str) -> Result<Whole, Infallible> {
        Ok(Arc::new(text.to_owned()))
    }

    fn told<K: 'static>(revision: &str, text: &str) -> Whole {
        read(TypeId::of::<K>(), revision.to_owned(), text.to_owned(), parsed).unwrap()
    }

    #[test]
    fn the_same_words_are_one_object_and_others_are_their_own() {
        let first = told::<Kind>("7", "a");
        assert!(Arc::ptr_eq(&first, &told::<Kind>("7", "a")));
        for other in [told::<Kind>("7", "b"), told::<Kind>("8", "a"), told::<Other>("7", "a")] {
            assert!(!Arc::ptr_eq(&first, &other));
        }
        assert_eq!(told::<Kind>("7", "b").downcast_ref::<String>().unwrap(), "b");
        assert!(Arc::ptr_eq(&first, &told::<Kind>("7", "a")), "it is still the first that was read");
        let failed: Result<Whole, &str> = read(TypeId::of::<Kind>(), "9".to_owned(), "c".to_owned(), |_| Err("unread"));
        assert_eq!(failed.unwrap_err(), "unread");
        assert_eq!(told::<Kind>("9", "c").downcast_ref::<String>().unwrap(), "c");
    }

    #[test]
    fn only_the_latest_are_kept() {
        let mut recent = Recent::default();
        let name = |number: usize| (TypeId::of::<Kind>(), number.to_string());
        let text = "x".repeat(KEPT / 10);
        let object = parsed(&text).unwrap();
        (0..25).for_each(|number| recent.keep(name(number), text.clone(), &object));
        assert_eq!((recent.bytes, recent.order.len(), recent.read.len()), (10 * text.len(), 10, 10));
        assert!(recent.find(&name(14), &text).is_none() && recent.find(&name(15), &text).is_some());
        recent.keep(name(30), "y".repeat(KEPT + 1), &object);
        assert_eq!(recent.read.len(), 10, "what is longer than all that is kept is not");
        drop(recent);
        assert_eq!(Arc::strong_count(&object), 1);
    }
}
