//! What HTTP asks of every answer, whatever the resource: methods, compression, browsers of other origins, queries.

pub(crate) mod client;
pub(crate) mod compression;
pub(crate) mod cors;
pub(crate) mod deprecation;
pub(crate) mod heads;
pub(crate) mod methods;
pub(crate) mod middleware;
pub(crate) mod queries;
pub(crate) mod strangers;
