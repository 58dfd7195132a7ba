//! What every request goes through on its way in, and its answer on its way out.
//!
//! All of it is one layer: a layer of its own for each concern is a heap allocation and a copy of request and answer each.

use std::sync::Arc;
use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::{HttpResponse, ResponseError as _};
use tokio::time::timeout;
use traces::Tracer;

use super::client::Proxies;
use super::cors::{Origins, Sharing};
use super::deprecation::{self, Deprecated};
use super::queries::ProtectedRoutes;
use super::strangers::Strangers;
use super::{compression, heads, methods};
use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::request_log::Logged;
use crate::spans;

/// How long a request may take in all. Nothing takes nearly as long, unless a server of ours answers no more without
/// breaking its connections.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What it has to know.
pub(crate) struct Middleware {
    pub(crate) tracer: Tracer,
    pub(crate) origins: Origins,
    pub(crate) proxies: Proxies,
    pub(crate) metrics: Metrics,
    pub(crate) strangers: Strangers,
    pub(crate) routes: ProtectedRoutes,
    pub(crate) deprecated: Vec<Deprecated>,
}

impl Middleware {
    pub(crate) async fn answer(
        self: Arc<Self>,
        request: ServiceRequest,
        next: Next<BoxBody>,
    ) -> Result<ServiceResponse, actix_web::Error> {
        match spans::begin(&self.tracer, &request) {
            None => self.share(request, next).await,
            Some(open) => {
                let method = request.method().to_string();
                // Boxed: few requests are traced, and the others are not to be as large.
                spans::trace(&self.tracer, open, method, Box::pin(self.share(request, next))).await
            }
        }
    }

    async fn share(
        &self,
        request: ServiceRequest,
        next: Next<BoxBody>,
    ) -> Result<ServiceResponse, actix_web::Error> {
        let sharing = Sharing::of(&request, &self.origins);
        let mut response = match sharing.as_ref().and_then(Sharing::preflight) {
            Some(answer) => request.into_response(answer),
            None => self.log(request, next).await?,
        };
        if let Some(sharing) = sharing {
            sharing.end(response.headers_mut());
        }
        Ok(response)
    }

    async fn log(
        &self,
        request: ServiceRequest,
        next: Next<BoxBody>,
    ) -> Result<ServiceResponse, actix_web::Error> {
        let logged = Logged::begin(&request, &self.proxies);
        let takes_gzip = compression::accepts_gzip(request.headers());
        let Ok(response) = timeout(REQUEST_TIMEOUT, self.judge(request, next)).await else {
            let error = ApiError::timed_out();
            logged.give_up(&error, &self.metrics);
            return Err(error.into());
        };
        let mut response = compression::end(response?, takes_gzip);
        logged.end(&mut response, &self.metrics);
        Ok(response)
    }

    async fn judge(
        &self,
        mut request: ServiceRequest,
        next: Next<BoxBody>,
    ) -> Result<ServiceResponse, actix_web::Error> {
        let mut response = match self.answer_early(&mut request) {
            Some(answer) => request.into_response(answer),
            None => self.strangers.end(methods::end(next.call(request).await?)),
        };
        deprecation::announce(&self.deprecated, &mut response);
        Ok(response)
    }

    /// Answers what no handler need be asked for.
    fn answer_early(&self, request: &mut ServiceRequest) -> Option<HttpResponse> {
        let admitted = heads::check(request).and_then(|()| self.strangers.admit(request, &self.routes));
        if let Err(error) = admitted {
            return Some(error.error_response());
        }
        let answer = methods::begin(request);
        answer.or_else(|| self.routes.check(request).err().map(|error| error.error_response()))
    }
}
