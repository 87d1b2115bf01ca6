//! Answers without `managedFields`: who owns which field is the API server's bookkeeping. No component reads it, and it is half of many an
//! object, the dearest to parse and to keep.
//!
//! It is taken out of the bytes as they come. Inside a JSON string quotes are escaped, so what is looked for is a key wherever it is found, and
//! its list ends where its brackets close; an empty list stays in its place. An object that is written back with that keeps its owners
//! (apiserver's field manager takes the stored ones when it is sent none).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures::TryFutureExt;
use futures::future::MapOk;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{Method, Request, Response};
use http_body::{Body, Frame};
use memchr::{memchr2, memmem};
use tower::{Layer, Service};

/// As API servers write it, without spaces. What is written otherwise is left as it is.
const FIELD: &[u8] = b"\"managedFields\":[";

#[derive(Debug, Clone, Copy)]
pub(crate) struct Lean;

impl<S> Layer<S> for Lean {
    type Service = LeanService<S>;

    fn layer(&self, inner: S) -> LeanService<S> {
        LeanService(inner)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct LeanService<S>(S);

impl<S, R, B> Service<Request<R>> for LeanService<S>
where
    S: Service<Request<R>, Response = Response<B>>,
{
    type Response = Response<LeanBody<B>>;
    type Error = S::Error;
    type Future = MapOk<S::Future, Box<dyn FnOnce(Response<B>) -> Response<LeanBody<B>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        // What others answer through the API server is theirs.
        let proxied = request.uri().path().split('/').any(|part| part == "proxy");
        let reads = request.method() == Method::GET && !proxied;
        self.0.call(request).map_ok(Box::new(move |response| lean(response, reads)))
    }
}

fn lean<B>(mut response: Response<B>, reads: bool) -> Response<LeanBody<B>> {
    let json = |value: &http::HeaderValue| value.as_bytes().starts_with(b"application/json");
    let filter = (reads && response.headers().get(CONTENT_TYPE).is_some_and(json)).then(Filter::default);
    if filter.is_some() {
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    response.map(|inner| LeanBody { inner: Box::pin(inner), filter })
}

/// A body that passes through a filter, if there is one.
#[derive(Debug)]
pub(crate) struct LeanBody<B> {
    inner: Pin<Box<B>>,
    filter: Option<Filter>,
}

impl<B: Body<Data = Bytes>> Body for LeanBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        loop {
            let frame = ready!(this.inner.as_mut().poll_frame(cx));
            let Some(filter) = &mut this.filter else { return Poll::Ready(frame) };
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let left = filter.pass(data);
                        if !left.is_empty() {
                            return Poll::Ready(Some(Ok(Frame::data(left))));
                        }
                    }
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    let held = std::mem::take(&mut filter.held);
                    return Poll::Ready((!held.is_empty()).then(|| Ok(Frame::data(held))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream() && self.filter.as_ref().is_none_or(|filter| filter.held.is_empty())
    }
}

/// Takes the lists out of a text that comes in pieces.
#[derive(Debug, Default)]
struct Filter {
    /// The end of the last piece, if [`FIELD`] may begin with it.
    held: Bytes,
    skipping: Option<Skipping>,
}

/// Within a list that is taken out.
#[derive(Debug, Default)]
struct Skipping {
    /// Brackets that are open inside it.
    open: usize,
    in_string: bool,
    escaped: bool,
}

impl Filter {
    /// What is left of the next piece. Without such a field it is the piece itself.
    fn pass(&mut self, piece: Bytes) -> Bytes {
        let mut rest = if self.held.is_empty() {
            piece
        } else {
            let mut whole = BytesMut::with_capacity(self.held.len() + piece.len());
            whole.extend_from_slice(&std::mem::take(&mut self.held));
            whole.extend_from_slice(&piece);
            whole.freeze()
        };
        let mut left = BytesMut::new();
        loop {
            if let Some(skipping) = &mut self.skipping {
                let Some(length) = skipping.length(&rest) else { return left.freeze() };
                self.skipping = None;
                // The closing bracket stays.
                let _ = rest.split_to(length);
            }
            let Some(at) = memmem::find(&rest, FIELD) else {
                self.held = rest.split_off(rest.len() - begun(&rest));
                if left.is_empty() {
                    return rest;
                }
                left.extend_from_slice(&rest);
                return left.freeze();
            };
            left.reserve(rest.len());
            left.extend_from_slice(&rest.split_to(at + FIELD.len()));
            self.skipping = Some(Skipping::default());
        }
    }
}

/// How many bytes at the end may be the beginning of [`FIELD`].
fn begun(text: &[u8]) -> usize {
    (1..FIELD.len()).rev().find(|length| text.ends_with(&FIELD[..*length])).unwrap_or_default()
}

impl Skipping {
    /// How many bytes come before the bracket that closes the list; none if that is not here yet.
    fn length(&mut self, text: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < text.len() {
            if std::mem::take(&mut self.escaped) {
                at += 1;
                continue;
            }
            if self.in_string {
                let found = memchr2(b'"', b'\\', &text[at..])?;
                at += found + 1;
                self.escaped = text[at - 1] == b'\\';
                self.in_string = self.escaped;
                continue;
            }
            match text[at] {
                b'"' => self.in_string = true,
                b'[' | b'{' => self.open += 1,
                b']' | b'}' if self.open == 0 => return Some(at),
                b']' | b'}' => self.open -= 1,
                _ => {}
            }
            at += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Passed through in pieces of that length.
    fn passed(text: &[u8], length: usize) -> Vec<u8> {
        let mut filter = Filter::default();
        let mut left: Vec<u8> =
            text.chunks(length).flat_map(|piece| filter.pass(Bytes::copy_from_slice(piece))).collect();
        left.extend_from_slice(&filter.held);
        left
    }

    /// The same by reading it all.
    fn without(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::Array(list)) = fields.get_mut("managedFields") {
                    list.clear();
                }
                fields.values_mut().for_each(without);
            }
            Value::Array(list) => list.iter_mut().for_each(without),
            _ => {}
        }
    }

    #[test]
    fn lists_go_wherever_a_piece_ends_and_texts_stay() {
        let entry = json!({"manager": "a\"]}\\", "fieldsV1": {"f:x": {"k:{\"n\":\"]\"}": {}}}, "list": [[1], []]});
        let tricky = "\"managedFields\":[{]}";
        let pod =
            json!({"metadata": {"managedFields": [entry, entry], "name": tricky}, "data": {"managedFields": "text"}});
        let mut whole = json!({"items": [pod, pod, {"managedFields": []}], "z": "\"managedFields\":"});
        let text = whole.to_string();
        without(&mut whole);
        for length in 1..=text.len() {
            let left = passed(text.as_bytes(), length);
            assert_eq!(String::from_utf8(left).unwrap(), whole.to_string(), "in pieces of {length}");
        }
        assert!(whole.to_string().len() < text.len());
    }

    #[test]
    fn a_piece_without_the_field_is_given_on_as_it_is() {
        let piece = Bytes::from_static(b"{\"metadata\":{\"name\":\"web\"}}\n");
        let left = Filter::default().pass(piece.clone());
        assert_eq!((left.as_ptr(), left.len()), (piece.as_ptr(), piece.len()));
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<u8>().prop_map(|number| json!(number)),
            "[\\[\\]{}\\\\\":,a]{0,6}".prop_map(Value::from),
            Just(json!("\"managedFields\":[")),
        ];
        let name = prop_oneof!["[a\\[\"\\\\]{0,2}", Just("managedFields".to_owned())];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(name.clone(), inner, 0..4).prop_map(|fields| json!(fields)),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_left_is_what_reading_it_all_would_leave(mut value in values(), length in 1..40_usize) {
            let left = passed(value.to_string().as_bytes(), length);
            without(&mut value);
            prop_assert_eq!(String::from_utf8(left).unwrap(), value.to_string());
        }

        #[test]
        fn no_bytes_panic(text in prop::collection::vec(any::<u8>(), 0..64), length in 1..9_usize) {
            let text = [&b"\"managedFields\":["[..], &text[..]].concat();
            let _ = passed(&text, length);
        }
    }
}
