//! What the kernel keeps for `nft` without looking at it: comments, and how the key of a set was declared.
//!
//! These are type, length, value triples of single bytes, in the machine's byte order. Their numbers are libnftnl's
//! (`include/libnftnl/udata.h`) and nft's (`enum expr_types`, `enum proto_desc_id`): whoever writes them as we do has
//! `nft list ruleset` print `typeof ip daddr . th dport` rather than bytes.

use std::sync::Arc;

use crate::field::Field;
use crate::ruleset::{DataSpec, SetSpec};
use crate::wire::attribute::{Writer, text};

/// The comment of tables, chains, rules and elements.
const COMMENT: u8 = 0;
const SET_KEY_BYTEORDER: u8 = 0;
const SET_DATA_BYTEORDER: u8 = 1;
const SET_KEY_TYPEOF: u8 = 3;
const SET_DATA_TYPEOF: u8 = 4;
const SET_DATA_INTERVAL: u8 = 6;
const SET_COMMENT: u8 = 7;
/// Inside `…_TYPEOF`.
const TYPEOF_EXPR: u8 = 0;
const TYPEOF_DATA: u8 = 1;
/// nft's `enum expr_types`.
const EXPR_PAYLOAD: u32 = 7;
const EXPR_META: u32 = 9;
const EXPR_CT: u32 = 12;
const EXPR_CONCAT: u32 = 13;
const EXPR_NUMGEN: u32 = 23;
/// nft's `enum byteorder`.
const HOST_ENDIAN: u32 = 1;
const BIG_ENDIAN: u32 = 2;

pub(crate) fn write_comment(out: &mut Writer, attribute: u16, comment: &str) {
    let mut data = [0; 130];
    let len = comment.len().min(127);
    data[0] = COMMENT;
    data[1] = (len + 1) as u8;
    data[2..2 + len].copy_from_slice(&comment.as_bytes()[..len]);
    out.raw(attribute, &data[..len + 3]);
}

pub(crate) fn read_comment(value: &[u8]) -> Option<Arc<str>> {
    Some(text(find(value, COMMENT)?)?.into())
}

/// The user data of a set.
pub(crate) fn write_set(out: &mut Writer, attribute: u16, spec: &SetSpec) {
    let mut data = Vec::new();
    put_number(&mut data, SET_KEY_BYTEORDER, byteorder(&spec.key));
    let fields = match &spec.data {
        Some(DataSpec::Value(fields)) => Some(&fields[..]),
        Some(DataSpec::Verdict) | None => None,
    };
    if spec.data.is_some() {
        put_number(&mut data, SET_DATA_BYTEORDER, fields.map_or(0, byteorder));
    }
    put_typeof(&mut data, SET_KEY_TYPEOF, &spec.key);
    if let Some(fields) = fields {
        put_typeof(&mut data, SET_DATA_TYPEOF, fields);
    }
    if spec.data.is_some() {
        put_number(&mut data, SET_DATA_INTERVAL, 0);
    }
    // The kernel takes 256 bytes; a comment that does not fit is the part that nobody needs.
    if let Some(comment) = &spec.comment
        && data.len() + comment.len() + 3 <= 256
    {
        put(&mut data, SET_COMMENT, &[comment.as_bytes(), &[0]].concat());
    }
    out.raw(attribute, &data);
}

/// What the user data of a set says, as far as it says it.
#[derive(Default)]
pub(crate) struct SetData {
    pub(crate) key: Option<Vec<Field>>,
    pub(crate) data: Option<Vec<Field>>,
    pub(crate) comment: Option<Arc<str>>,
}

pub(crate) fn read_set(value: &[u8]) -> SetData {
    let fields = |kind| find(value, kind).and_then(read_typeof);
    let comment = find(value, SET_COMMENT).and_then(text).map(Arc::from);
    SetData { key: fields(SET_KEY_TYPEOF), data: fields(SET_DATA_TYPEOF), comment }
}

fn byteorder(fields: &[Field]) -> u32 {
    match fields {
        [single] if single.host_order() || single.width() == 1 => HOST_ENDIAN,
        [_] => BIG_ENDIAN,
        _ => 0,
    }
}

fn put(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    // Lengths are single bytes; our longest, a concatenation of five fields, takes 120.
    out.extend_from_slice(&[kind, value.len() as u8]);
    out.extend_from_slice(value);
}

fn put_number(out: &mut Vec<u8>, kind: u8, value: u32) {
    put(out, kind, &value.to_ne_bytes());
}

fn put_typeof(out: &mut Vec<u8>, kind: u8, fields: &[Field]) {
    let mut inner = Vec::new();
    match fields {
        [single] => put_field(&mut inner, *single),
        several => {
            let mut parts = Vec::new();
            for (index, field) in several.iter().enumerate() {
                let mut part = Vec::new();
                put_field(&mut part, *field);
                put(&mut parts, index as u8, &part);
            }
            put_number(&mut inner, TYPEOF_EXPR, EXPR_CONCAT);
            put(&mut inner, TYPEOF_DATA, &parts);
        }
    }
    put(out, kind, &inner);
}

fn put_field(out: &mut Vec<u8>, field: Field) {
    let (expr, numbers) = describe(field);
    let mut data = Vec::new();
    for (index, number) in numbers.into_iter().enumerate() {
        put_number(&mut data, index as u8, number);
    }
    put_number(out, TYPEOF_EXPR, expr);
    put(out, TYPEOF_DATA, &data);
}

/// nft's numbers for a field: the kind of expression, and what tells it from others of the kind. For payload the header
/// and the field in it, for meta and ct the kernel's key, for numgen the kind, the modulus and the offset.
fn describe(field: Field) -> (u32, Vec<u32>) {
    const TH: u32 = 11;
    const IP: u32 = 12;
    const IP6: u32 = 13;
    const NO_DIRECTION: u32 = u32::MAX;
    let meta = |key| (EXPR_META, vec![key]);
    let ct = |key| (EXPR_CT, vec![key, NO_DIRECTION]);
    let payload = |header, field| (EXPR_PAYLOAD, vec![header, field]);
    match field {
        Field::IpSaddr | Field::CtOriginalIpSaddr => payload(IP, 11),
        Field::IpDaddr | Field::IpDaddrHigh | Field::CtOriginalIpDaddr => payload(IP, 12),
        Field::Ip6Saddr | Field::CtOriginalIp6Saddr => payload(IP6, 8),
        Field::Ip6Daddr | Field::Ip6DaddrHigh | Field::CtOriginalIp6Daddr => payload(IP6, 9),
        Field::ThSport | Field::CtOriginalProtoSrc => payload(TH, 1),
        Field::ThDport | Field::CtOriginalProtoDst => payload(TH, 2),
        Field::Nfproto => meta(15),
        Field::L4Proto => meta(16),
        Field::Mark | Field::FibSaddrType | Field::FibDaddrType => meta(3),
        Field::Iif => meta(4),
        Field::Oif => meta(5),
        Field::Iifname => meta(6),
        Field::Oifname => meta(7),
        Field::CtState => ct(0),
        Field::CtDirection => ct(1),
        Field::CtStatus => ct(2),
        Field::CtMark => ct(3),
        Field::CtExpiration => ct(5),
        Field::NumgenInc { modulus } => (EXPR_NUMGEN, vec![0, modulus, 0]),
        Field::NumgenRandom { modulus } => (EXPR_NUMGEN, vec![1, modulus, 0]),
    }
}

/// The fields that can be declared and read back, the likelier of a type first. See [`Field::declared`].
const DECLARABLE: [Field; 18] = [
    Field::IpDaddr,
    Field::IpSaddr,
    Field::Ip6Daddr,
    Field::Ip6Saddr,
    Field::ThDport,
    Field::ThSport,
    Field::Nfproto,
    Field::L4Proto,
    Field::Mark,
    Field::Iif,
    Field::Oif,
    Field::Iifname,
    Field::Oifname,
    Field::CtState,
    Field::CtDirection,
    Field::CtStatus,
    Field::CtMark,
    Field::CtExpiration,
];

impl Field {
    /// The field that a set is declared with to be looked up by this one. nft has no `typeof` for flow fields that depend on
    /// the packet's protocol, nor for halves of addresses; the plain header field has the same shape.
    pub(crate) fn declared(self) -> Field {
        match describe(self) {
            (EXPR_NUMGEN, _) => self,
            description => DECLARABLE.into_iter().find(|field| describe(*field) == description).unwrap_or(self),
        }
    }

    /// A field for a part of a key whose `typeof` is not known, by nft's number of its type.
    pub(crate) fn of_type(number: u32) -> Option<Field> {
        match number {
            4 => Some(Field::NumgenRandom { modulus: 1 }),
            _ => DECLARABLE.into_iter().find(|field| field.data_type().number() == number),
        }
    }
}

fn read_typeof(value: &[u8]) -> Option<Vec<Field>> {
    let expr = number(find(value, TYPEOF_EXPR)?)?;
    let data = find(value, TYPEOF_DATA)?;
    if expr != EXPR_CONCAT {
        return Some(vec![read_field(expr, data)?]);
    }
    triples(data).map(|(_, part)| read_field(number(find(part, TYPEOF_EXPR)?)?, find(part, TYPEOF_DATA)?)).collect()
}

fn read_field(expr: u32, data: &[u8]) -> Option<Field> {
    let numbers: Option<Vec<u32>> = triples(data).map(|(_, value)| number(value)).collect();
    let numbers = numbers?;
    match (expr, &numbers[..]) {
        (EXPR_NUMGEN, [0, modulus, _]) => Some(Field::NumgenInc { modulus: *modulus }),
        (EXPR_NUMGEN, [1, modulus, _]) => Some(Field::NumgenRandom { modulus: *modulus }),
        _ => DECLARABLE.into_iter().find(|field| {
            let (kind, description) = describe(*field);
            kind == expr && description.first() == numbers.first() && (kind != EXPR_PAYLOAD || description == numbers)
        }),
    }
}

fn triples(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&kind, &len) = (bytes.first()?, bytes.get(1)?);
        let value = bytes.get(2..2 + usize::from(len))?;
        bytes = &bytes[2 + usize::from(len)..];
        Some((kind, value))
    })
}

fn find(bytes: &[u8], kind: u8) -> Option<&[u8]> {
    triples(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.try_into().ok()?))
}

/// nft's number for the type of a key or value: six bits for each component.
pub(crate) fn type_number(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |number, field| number << 6 | field.data_type().number())
}

/// The fields that such a number stands for, as far as we know the types.
pub(crate) fn fields_of_type(mut number: u32) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while number != 0 {
        fields.insert(0, Field::of_type(number & 0x3f)?);
        number >>= 6;
    }
    (!fields.is_empty()).then_some(fields)
}
