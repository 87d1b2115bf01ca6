//! The way in for callers in the same process: a tower service that carries the same HTTP as TLS does.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};

use crate::Server;
use crate::auth::User;
use crate::body::{BoxError, ResponseBody};
use crate::handle::respond;

/// Calls into the server, as one user. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Service {
    server: Arc<Server>,
    user: User,
}

impl Service {
    pub(crate) fn new(server: Arc<Server>, user: User) -> Self {
        Service { server, user }
    }
}

impl<B> tower::Service<Request<B>> for Service
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        request.extensions_mut().insert(self.user.clone());
        let server = self.server.clone();
        Box::pin(async move { Ok(respond(server, request).await) })
    }
}
