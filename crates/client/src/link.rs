//! A way to an API server in this process that can be cut. Meanwhile nothing passes, neither questions nor answers nor events; afterwards all
//! of it does: as on a wire whose far end is away for a while, where TCP repeats what was lost.
//!
//! Nothing is refused while it is cut. Whoever wants to know that a server is silent needs a deadline, as with any other.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::watch;
use tower::{Service, ServiceExt};

/// A service behind a link that is up while the receiver says `true`. Whose sender is gone stays up for ever.
#[derive(Debug, Clone)]
pub(crate) struct Linked<S> {
    inner: S,
    up: watch::Receiver<bool>,
}

impl<S> Linked<S> {
    pub(crate) fn new(inner: S, up: watch::Receiver<bool>) -> Self {
        Linked { inner, up }
    }
}

async fn passes(mut up: watch::Receiver<bool>) {
    // An error is that nobody can cut it any more.
    let _ = up.wait_for(|up| *up).await;
}

impl<S, Q, B> Service<Request<Q>> for Linked<S>
where
    S: Service<Request<Q>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    Q: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<Passing<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // Whether the service is ready matters once the link is up.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let (inner, up) = (self.inner.clone(), self.up.clone());
        Box::pin(async move {
            passes(up.clone()).await;
            let answer = inner.oneshot(request).await?;
            passes(up.clone()).await;
            Ok(answer.map(|body| Passing { body: Box::pin(body), up, waits: None }))
        })
    }
}

/// The body of an answer on its way over a link.
pub(crate) struct Passing<B> {
    body: Pin<Box<B>>,
    up: watch::Receiver<bool>,
    waits: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<B: Body<Data = Bytes>> Body for Passing<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        loop {
            if let Some(waits) = &mut self.waits {
                ready!(waits.as_mut().poll(context));
                self.waits = None;
            }
            if *self.up.borrow() || self.up.has_changed().is_err() {
                return self.body.as_mut().poll_frame(context);
            }
            self.waits = Some(Box::pin(passes(self.up.clone())));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use futures::{FutureExt, StreamExt};
    use http_body_util::{BodyExt, StreamBody};
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

    use super::*;

    type Events = StreamBody<futures::stream::BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

    /// A server that counts what it was asked, and answers the first question with the events that it is given.
    #[derive(Clone)]
    struct Server {
        asked: Arc<AtomicUsize>,
        told: Arc<Mutex<Option<UnboundedReceiver<&'static str>>>>,
    }

    impl Service<Request<()>> for Server {
        type Response = Response<Events>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Events>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let events = futures::stream::unfold(self.told.lock().unwrap().take(), |events| async {
                let mut events = events?;
                let event: &str = events.recv().await?;
                Some((Ok(Frame::data(Bytes::from_static(event.as_bytes()))), Some(events)))
            });
            std::future::ready(Ok(Response::new(StreamBody::new(events.boxed()))))
        }
    }

    fn server() -> (UnboundedSender<&'static str>, Linked<Server>, watch::Sender<bool>) {
        let (tell, told) = tokio::sync::mpsc::unbounded_channel();
        let (cut, up) = watch::channel(true);
        let server = Server { asked: Arc::default(), told: Arc::new(Mutex::new(Some(told))) };
        (tell, Linked::new(server, up), cut)
    }

    #[tokio::test]
    async fn a_question_waits_for_the_link() {
        let (_tell, mut linked, cut) = server();
        let asked = Arc::clone(&linked.inner.asked);
        cut.send_replace(false);
        let mut answer = linked.call(Request::new(()));
        assert!((&mut answer).now_or_never().is_none());
        assert_eq!(asked.load(Ordering::SeqCst), 0, "the server has not heard of it");
        cut.send_replace(true);
        answer.await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn events_wait_for_the_link_and_none_is_lost() {
        let (tell, mut linked, cut) = server();
        let mut events = linked.call(Request::new(())).await.unwrap().into_body();
        let text =
            |frame: Option<Result<Frame<Bytes>, Infallible>>| frame.map(|frame| frame.unwrap().into_data().unwrap());
        tell.send("one").unwrap();
        assert_eq!(text(events.frame().await).unwrap(), "one");
        assert!(events.frame().now_or_never().is_none(), "nothing happened yet");
        cut.send_replace(false);
        tell.send("two").unwrap();
        tell.send("three").unwrap();
        assert!(events.frame().now_or_never().is_none());
        cut.send_replace(true);
        assert_eq!(text(events.frame().await).unwrap(), "two");
        assert_eq!(text(events.frame().await).unwrap(), "three");
        cut.send_replace(false);
        drop(cut);
        drop(tell);
        assert!(events.frame().await.is_none(), "with nobody to cut it, it passes");
    }
}
