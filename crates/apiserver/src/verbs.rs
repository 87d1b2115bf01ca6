//! Verbs: from method and path to the function that carries them out.

use std::sync::Arc;
use std::time::Instant;

use api::status::Status;
use bytes::Bytes;
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::Value;

use crate::Server;
use crate::auth::User;
use crate::body::{self, BoxError, Encoding};
use crate::delete::{self, DeleteOptions, Deleted};
use crate::fault::{Fault, Outcome};
use crate::handle::{Answer, AnswerBody, read_body};
use crate::kinds::{Kind, Scope, Subresource, find};
use crate::merge::{Patch, PatchType};
use crate::negotiate::{Form, Media};
use crate::ownership::Apply;
use crate::query::Query;
use crate::render::Renderer;
use crate::reviews::Review;
use crate::route::Target;
use crate::selection::Selection;
use crate::update::{Part, Replace, update};
use crate::write::{self, WriteOptions, Written};
use crate::{create, object, pods, proxy, read, scale, streams, watching};

/// One request for a stored kind.
struct Call {
    server: Arc<Server>,
    kind: &'static Kind,
    namespace: String,
    parts: Parts,
    query: Query,
    form: Form,
    body: Bytes,
    user: Arc<User>,
}

pub(crate) async fn stored<B>(
    server: &Arc<Server>,
    kind: &'static Kind,
    target: &Target,
    parts: Parts,
    query: Query,
    user: User,
    body: B,
) -> Outcome<Answer>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if let Some(stream) = streams::stream(kind, target) {
        return streams::answer(server, kind, stream, target, parts, &query, user).await;
    }
    let full = parts.uri.path().to_owned();
    if let Some(rest) = proxy::path(kind, target, &full) {
        return proxy::answer(server, kind, target, rest, parts, body).await;
    }
    let lists = query.flag("watch") && query.flag("sendInitialEvents");
    let form = if lists { Form::listed_by_watch(&parts.headers)? } else { Form::of(&parts.headers)? };
    let body = if parts.method == Method::GET { Bytes::new() } else { read_body(server, body).await? };
    let namespace = target.namespace.clone();
    let call = Call { server: server.clone(), kind, namespace, parts, query, form, body, user: Arc::new(user) };
    match (&target.name, target.subresource.as_deref()) {
        (None, _) => call.collection().await,
        (Some(name), None) => call.object(name).await,
        (Some(name), Some(subresource)) => call.subresource(name, subresource).await,
    }
}

/// A question: its body is decoded, answered and sent back with the answer as status.
pub(crate) async fn review<B>(
    server: &Arc<Server>,
    review: &'static Review,
    target: &Target,
    parts: &Parts,
    query: &Query,
    user: User,
    body: B,
) -> Outcome<Answer>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if parts.method != Method::POST || target.name.is_some() {
        return Err(Fault::method_not_allowed());
    }
    let form = Form::whole(&parts.headers)?;
    let bytes = read_body(server, body).await?;
    let options = WriteOptions::of(query, parts, Arc::new(user.clone()))?;
    let wanted = api::decode::Kind { group: review.group, version: review.version, kind: review.kind };
    let (mut object, warnings) = write::decode_as(wanted, &bytes, Encoding::of(&parts.headers)?, options.validation)?;
    let status = (review.answer)(server, &user, &object, &target.namespace)?;
    if let Some(map) = object.as_object_mut() {
        map.entry("metadata").or_insert_with(|| serde_json::json!({}));
        map.insert("status".to_owned(), status);
    }
    let answer = Answer::new(StatusCode::CREATED, form.media, crate::render::write(&object, form.media)?);
    Ok(Answer { warnings, ..answer })
}

const BINDING: api::decode::Kind<'static> = api::decode::Kind { group: "", version: "v1", kind: "Binding" };

/// A `Binding` as an object of its own: its name is the Pod's.
pub(crate) async fn binding<B>(
    server: &Arc<Server>,
    target: &Target,
    parts: &Parts,
    query: &Query,
    user: User,
    body: B,
) -> Outcome<Answer>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if parts.method != Method::POST || target.name.is_some() || target.namespace.is_empty() {
        return Err(Fault::method_not_allowed());
    }
    let form = Form::whole(&parts.headers)?;
    let bytes = read_body(server, body).await?;
    let options = WriteOptions::of(query, parts, Arc::new(user))?;
    let (object, _) = write::decode_as(BINDING, &bytes, Encoding::of(&parts.headers)?, options.validation)?;
    let pods = find("", "v1", "pods").ok_or_else(|| Fault::internal("no such kind"))?;
    let place = (target.namespace.as_str(), object::name(&object));
    let outcome = pods::bind(server, pods, place, &object, &options).await?;
    Ok(Answer::new(StatusCode::CREATED, form.media, crate::render::write(&outcome, form.media)?))
}

impl Call {
    fn renderer(&self) -> Outcome<Renderer> {
        Renderer::new(self.kind, self.form, &self.query)
    }

    fn options(&self) -> Outcome<WriteOptions> {
        WriteOptions::of(&self.query, &self.parts, self.user.clone())
    }

    fn written(&self, written: Written, mut warnings: Vec<String>) -> Outcome<Answer> {
        let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        let body = self.renderer()?.object(&written.object)?;
        warnings.extend(written.warnings);
        Ok(Answer { warnings, ..Answer::new(code, self.form.media, body) })
    }

    async fn collection(self) -> Outcome<Answer> {
        let everywhere = self.kind.scope == Scope::Namespaced && self.namespace.is_empty();
        match self.parts.method {
            Method::GET if self.query.flag("watch") => self.watch(),
            Method::GET => {
                let body = read::list(&self.server, self.kind, &self.namespace, &self.query, &self.renderer()?)?;
                Ok(Answer::new(StatusCode::OK, self.form.media, body))
            }
            Method::POST if !everywhere => self.create().await,
            Method::DELETE if !everywhere && !delete::is_namespace(self.kind) => self.delete_collection().await,
            _ => Err(Fault::method_not_allowed()),
        }
    }

    fn watch(self) -> Outcome<Answer> {
        let stream = watching::watch(&self.server, self.kind, &self.namespace, &self.query, self.renderer()?)?;
        let content_type = match self.form.media {
            Media::Json | Media::Yaml => "application/json",
            Media::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        };
        Ok(Answer {
            code: StatusCode::OK,
            content_type: http::HeaderValue::from_static(content_type),
            body: AnswerBody::Stream(stream),
            warnings: Vec::new(),
        })
    }

    /// The object in the body, and what there is to warn about.
    fn given(&self, options: &WriteOptions) -> Outcome<(Value, Vec<String>)> {
        write::decode(self.kind, &self.body, Encoding::of(&self.parts.headers)?, options.validation)
    }

    async fn create(self) -> Outcome<Answer> {
        let options = self.options()?;
        let (object, warnings) = self.given(&options)?;
        let written = create::create(&self.server, self.kind, (&self.namespace, None), object, false, &options).await?;
        self.written(written, warnings)
    }

    async fn object(self, name: &str) -> Outcome<Answer> {
        match self.parts.method {
            Method::GET if self.query.flag("watch") => self.watch(),
            Method::GET => self.get(name),
            Method::PUT => self.replace(name, Part::Whole).await,
            Method::PATCH => self.patch(name, Part::Whole).await,
            Method::DELETE => self.delete(name).await,
            _ => Err(Fault::method_not_allowed()),
        }
    }

    fn get(self, name: &str) -> Outcome<Answer> {
        let entry = read::get(&self.server, self.kind, &self.namespace, name, &self.query)?;
        if self.kind.group.is_empty() && self.kind.plural == "services" {
            let place = (self.namespace.as_str(), name);
            self.server.forwards.note(&self.user, &self.parts.headers, place, Instant::now());
        }
        let body = self.renderer()?.stored(&entry.value)?;
        Ok(Answer::new(StatusCode::OK, self.form.media, body))
    }

    async fn replace(self, name: &str, part: Part) -> Outcome<Answer> {
        let options = self.options()?;
        let (object, warnings) = self.given(&options)?;
        let may_create = self.kind.create_on_update && part == Part::Whole;
        let edit = Replace { kind: self.kind, object, may_create };
        let written = update(&self.server, self.kind, (&self.namespace, name), part, &edit, &options).await?;
        self.written(written, warnings)
    }

    async fn patch(self, name: &str, part: Part) -> Outcome<Answer> {
        let media = body::media_type(&self.parts.headers);
        let r#type = PatchType::of(&media).ok_or_else(|| Fault::from(Status::unsupported_patch_type()))?;
        let options = self.options()?;
        if r#type == PatchType::Apply {
            let apply = Apply::parse(self.kind, &self.body, part.name(), &options)?;
            let written = update(&self.server, self.kind, (&self.namespace, name), part, &apply, &options).await?;
            return self.written(written, Vec::new());
        }
        let patch = Patch { kind: self.kind, r#type, body: self.body.clone(), validation: options.validation };
        let written = update(&self.server, self.kind, (&self.namespace, name), part, &patch, &options).await?;
        self.written(written, Vec::new())
    }

    /// Options in the body win over those in the query.
    fn delete_options(&self) -> Outcome<DeleteOptions> {
        let body = if self.body.is_empty() {
            None
        } else {
            Some(write::parse(&self.body, Encoding::of(&self.parts.headers)?)?)
        };
        DeleteOptions::of(body.as_ref(), &self.query)
    }

    async fn delete(self, name: &str) -> Outcome<Answer> {
        let options = self.delete_options()?;
        let renderer = self.renderer()?;
        let (code, body) = match delete::delete(&self.server, self.kind, &self.namespace, name, &options).await? {
            Deleted::Gone(object) => {
                let answer = delete::answer(self.kind, object);
                let body = if answer["kind"] == "Status" {
                    crate::render::write(&answer, self.form.media)?
                } else {
                    renderer.object(&answer)?
                };
                (StatusCode::OK, body)
            }
            Deleted::Waiting(object) => (StatusCode::OK, renderer.object(&object)?),
        };
        let warnings = delete::warnings(self.kind, &options);
        Ok(Answer { warnings, ..Answer::new(code, self.form.media, body) })
    }

    async fn delete_collection(self) -> Outcome<Answer> {
        let options = self.delete_options()?;
        let selection = Selection::of(self.kind, &self.query)?;
        let (entries, meta) = read::select(&self.server, self.kind, &self.namespace, &self.query, &selection)?;
        for entry in &entries {
            let object = object::decode(self.kind, &entry.value)?;
            let place = (object::namespace(&object), object::name(&object));
            match delete::delete(&self.server, self.kind, place.0, place.1, &options).await {
                Ok(_) => {}
                // Someone else was quicker; it is gone, which is what was asked for.
                Err(fault) if fault.is("NotFound") => {}
                Err(fault) => return Err(fault),
            }
        }
        let body = self.renderer()?.list(&entries, &meta)?;
        let warnings = delete::warnings(self.kind, &options);
        Ok(Answer { warnings, ..Answer::new(StatusCode::OK, self.form.media, body) })
    }

    async fn subresource(self, name: &str, subresource: &str) -> Outcome<Answer> {
        let known = |wanted| self.kind.subresources.contains(&wanted);
        match subresource {
            "status" if known(Subresource::Status) => self.part(name, Part::Status).await,
            "scale" if known(Subresource::Scale) => self.scale(name).await,
            "finalize" if delete::is_namespace(self.kind) => match self.parts.method {
                Method::PUT => self.replace(name, Part::Finalize).await,
                _ => Err(Fault::method_not_allowed()),
            },
            _ => match self.kind.parts.iter().find(|part| part.name == subresource) {
                Some(part) => self.part(name, Part::Object(*part)).await,
                None => self.own_part(name, subresource).await,
            },
        }
    }

    async fn part(self, name: &str, part: Part) -> Outcome<Answer> {
        match self.parts.method {
            Method::GET => self.get(name),
            Method::PUT => self.replace(name, part).await,
            Method::PATCH => self.patch(name, part).await,
            _ => Err(Fault::method_not_allowed()),
        }
    }

    /// The parts of one kind only, each a write with a body of its own.
    async fn own_part(self, name: &str, subresource: &str) -> Outcome<Answer> {
        let options = self.options()?;
        let place = (self.namespace.as_str(), name);
        let outcome = match (self.kind.group, self.kind.plural, subresource) {
            ("", "pods", "binding" | "eviction") | ("", "serviceaccounts", "token") => {
                if self.parts.method != Method::POST {
                    return Err(Fault::method_not_allowed());
                }
                let wanted = match subresource {
                    "binding" => BINDING,
                    "eviction" => api::decode::Kind { group: "policy", version: "v1", kind: "Eviction" },
                    _ => api::decode::Kind { group: "authentication.k8s.io", version: "v1", kind: "TokenRequest" },
                };
                let encoding = Encoding::of(&self.parts.headers)?;
                let (object, _) = write::decode_as(wanted, &self.body, encoding, options.validation)?;
                match subresource {
                    "binding" => pods::bind(&self.server, self.kind, place, &object, &options).await?,
                    "eviction" => pods::evict(&self.server, self.kind, place, &object, &options).await?,
                    _ => crate::auth::token::request(&self.server, self.kind, place, object)?,
                }
            }
            (_, _, _) => return Err(Status::no_such_resource().into()),
        };
        Ok(Answer::new(StatusCode::CREATED, self.form.media, crate::render::write(&outcome, self.form.media)?))
    }

    async fn scale(self, name: &str) -> Outcome<Answer> {
        let options = self.options()?;
        let place = (self.namespace.as_str(), name);
        let scale = match self.parts.method {
            Method::GET => {
                let entry = read::get(&self.server, self.kind, &self.namespace, name, &self.query)?;
                scale::of(&object::decode(self.kind, &entry.value)?)
            }
            Method::PUT => {
                let wanted = api::decode::Kind { group: "autoscaling", version: "v1", kind: "Scale" };
                let encoding = Encoding::of(&self.parts.headers)?;
                let (mut given, _) = write::decode_as(wanted, &self.body, encoding, options.validation)?;
                write::address(&scale::KIND, &self.namespace, Some(name), &mut given)?;
                let edit = scale::Set(given);
                scale::of(&update(&self.server, self.kind, place, Part::Whole, &edit, &options).await?.object)
            }
            Method::PATCH => {
                let media = body::media_type(&self.parts.headers);
                let r#type = PatchType::of(&media).ok_or_else(|| Fault::from(Status::unsupported_patch_type()))?;
                let edit = scale::Patched(r#type, self.body.clone());
                scale::of(&update(&self.server, self.kind, place, Part::Whole, &edit, &options).await?.object)
            }
            _ => return Err(Fault::method_not_allowed()),
        };
        let body = Renderer::new(&scale::KIND, self.form, &self.query)?.object(&scale)?;
        Ok(Answer::new(StatusCode::OK, self.form.media, body))
    }
}
