//! Elements of sets and maps on the wire.
//!
//! A range is one element with two keys in a set of concatenations, and two elements (the first key, and the one after the
//! last, marked as an end) in a set of single keys. A set of single keys also wants them without the padding to registers.

use std::time::Duration;

use crate::bytes::Bytes;
use crate::ruleset::{Counter, Data, DataSpec, Element, Elements, SetSpec};
use crate::wire::attribute::{Attributes, Writer, text};
use crate::wire::{expr, userdata};

const KEY: u16 = 1;
const DATA: u16 = 2;
const FLAGS: u16 = 3;
const TIMEOUT: u16 = 4;
const EXPIRATION: u16 = 5;
const USERDATA: u16 = 6;
const EXPR: u16 = 7;
const KEY_END: u16 = 10;
const EXPRESSIONS: u16 = 11;
/// `NFTA_LIST_ELEM`
const LIST_ELEM: u16 = 1;
/// `NFT_SET_ELEM_INTERVAL_END`
const INTERVAL_END: u32 = 1;

/// Writes one element; without `with_content` only what names it, for deletion.
pub(crate) fn write(out: &mut Writer, spec: &SetSpec, key: &Bytes, element: &Element, with_content: bool) {
    let start = out.begin_nested(LIST_ELEM);
    write_key(out, KEY, spec, key.as_slice());
    if spec.flags.interval && spec.key.len() > 1 {
        write_key(out, KEY_END, spec, element.end().unwrap_or(key).as_slice());
    }
    if with_content {
        write_content(out, spec, element);
    }
    out.end_nested(start);
    if spec.flags.interval
        && spec.key.len() == 1
        && let Some(after) = successor(trim(spec, element.end().unwrap_or(key).as_slice()))
    {
        let end = out.begin_nested(LIST_ELEM);
        out.word(FLAGS, INTERVAL_END);
        write_key(out, KEY, spec, &after);
        out.end_nested(end);
    }
}

fn write_content(out: &mut Writer, spec: &SetSpec, element: &Element) {
    match &element.data {
        Data::None => {}
        Data::Value(value) => out.nested(DATA, |out| out.raw(expr::DATA_VALUE, trim_data(spec, value.as_slice()))),
        Data::Verdict(verdict) => out.nested(DATA, |out| expr::write_verdict(out, verdict)),
    }
    if let Some(timeout) = element.get_timeout() {
        out.long(TIMEOUT, milliseconds(timeout));
    }
    if let Some(expires) = element.get_expires() {
        out.long(EXPIRATION, milliseconds(expires));
    }
    if let Some(comment) = &element.comment {
        userdata::write_comment(out, USERDATA, comment);
    }
}

fn write_key(out: &mut Writer, kind: u16, spec: &SetSpec, key: &[u8]) {
    out.nested(kind, |out| out.raw(expr::DATA_VALUE, trim(spec, key)));
}

/// Single keys go without padding.
fn trim<'a>(spec: &SetSpec, key: &'a [u8]) -> &'a [u8] {
    match &spec.key[..] {
        [single] => key.get(..single.width()).unwrap_or(key),
        _ => key,
    }
}

fn trim_data<'a>(spec: &SetSpec, value: &'a [u8]) -> &'a [u8] {
    match &spec.data {
        Some(DataSpec::Value(fields)) if fields.len() == 1 => value.get(..fields[0].width()).unwrap_or(value),
        Some(DataSpec::Value(_) | DataSpec::Verdict) | None => value,
    }
}

/// The key after this one in byte order; none after the last.
fn successor(key: &[u8]) -> Option<Vec<u8>> {
    let mut next = key.to_vec();
    for byte in next.iter_mut().rev() {
        let (sum, overflow) = byte.overflowing_add(1);
        *byte = sum;
        if !overflow {
            return Some(next);
        }
    }
    None
}

fn predecessor(key: &[u8]) -> Vec<u8> {
    let mut previous = key.to_vec();
    for byte in previous.iter_mut().rev() {
        let (difference, borrow) = byte.overflowing_sub(1);
        *byte = difference;
        if !borrow {
            break;
        }
    }
    previous
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// One element as the kernel lists it: for single-key ranges, one of its two ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Half {
    key: Bytes,
    is_end: bool,
    element: Element,
}

pub(crate) fn read(list: &[u8], spec: &SetSpec) -> Vec<Half> {
    Attributes(list).filter(|(kind, _)| *kind == LIST_ELEM).filter_map(|(_, value)| read_one(value, spec)).collect()
}

fn read_one(value: &[u8], spec: &SetSpec) -> Option<Half> {
    let mut half = Half { key: Bytes::new(), is_end: false, element: Element::member() };
    let mut element = Element::member();
    for (kind, value) in Attributes(value) {
        match kind {
            KEY => half.key = pad(Attributes(value).find(expr::DATA_VALUE)?),
            KEY_END => element = element.to(pad(Attributes(value).find(expr::DATA_VALUE)?)),
            FLAGS => half.is_end = word_flag(value),
            DATA => element.data = read_data(value)?,
            TIMEOUT => element = element.timeout(read_duration(value)?),
            EXPIRATION => element = element.expires(read_duration(value)?),
            USERDATA => element.comment = userdata::read_comment(value),
            EXPR => element = with_counter(element, value),
            EXPRESSIONS => {
                for (_, value) in Attributes(value) {
                    element = with_counter(element, value);
                }
            }
            _ => {}
        }
    }
    // A concatenation that is one point is listed with equal ends, which we write as no range.
    if spec.flags.interval && element.end() == Some(&half.key) {
        element = element.without_end();
    }
    if element.get_timeout().is_some() && element.get_timeout() == spec.timeout {
        element = element.without_timeout();
    }
    half.element = element;
    Some(half)
}

fn word_flag(value: &[u8]) -> bool {
    crate::wire::attribute::word(value).unwrap_or(0) & INTERVAL_END != 0
}

fn read_data(value: &[u8]) -> Option<Data> {
    match Attributes(value).find(expr::DATA_VALUE) {
        Some(value) => Some(Data::Value(pad(value))),
        None => Some(Data::Verdict(Box::new(expr::read_verdict(value)?))),
    }
}

fn with_counter(element: Element, value: &[u8]) -> Element {
    let attributes = Attributes(value);
    if attributes.find(expr::NAME).and_then(text) != Some("counter") {
        return element;
    }
    let inside = attributes.nested(expr::DATA);
    let read = |kind| inside.and_then(|inside| inside.long(kind)).unwrap_or(0);
    element.counted(Counter { bytes: read(1), packets: read(2) })
}

fn read_duration(value: &[u8]) -> Option<Duration> {
    Some(Duration::from_millis(u64::from_be_bytes(value.get(..8)?.try_into().ok()?)))
}

fn pad(bytes: &[u8]) -> Bytes {
    if bytes.len().is_multiple_of(4) { Bytes::from_slice(bytes) } else { Bytes::new().push(bytes) }
}

/// Puts the halves of ranges together again.
pub(crate) fn join(spec: &SetSpec, mut halves: Vec<Half>, into: &mut Elements) {
    if !spec.flags.interval || spec.key.len() > 1 {
        into.extend(halves.into_iter().map(|half| (half.key, half.element)));
        return;
    }
    // An end comes before a beginning at the same place: it ends the range before.
    halves.sort_by(|a, b| a.key.cmp(&b.key).then(b.is_end.cmp(&a.is_end)));
    let mut open: Option<(Bytes, Element)> = None;
    for half in halves {
        match (half.is_end, open.take()) {
            (true, Some((start, element))) => {
                let last = pad(&predecessor(trim(spec, half.key.as_slice())));
                close(into, start, element, last);
            }
            // The end of what is not in the set, as nft marks the beginning of a set.
            (true, None) => {}
            (false, before) => {
                if let Some((start, element)) = before {
                    into.insert(start, element);
                }
                open = Some((half.key, half.element));
            }
        }
    }
    if let Some((start, element)) = open {
        let last = pad(&vec![0xff; trim(spec, start.as_slice()).len()]);
        close(into, start, element, last);
    }
}

fn close(into: &mut Elements, start: Bytes, element: Element, last: Bytes) {
    let element = if last == start { element } else { element.to(last) };
    into.insert(start, element);
}
