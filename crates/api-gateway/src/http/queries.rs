//! Query parameters that a route does not know are refused: a filter with a slip in its name must not show everything.
//!
//! Which ones a route knows is what the OpenAPI document says of it. Routes that are public take any.

use std::collections::HashMap;

use actix_web::dev::ServiceRequest;
use actix_web::http::Method;
use actix_web::web;
use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa::openapi::{OpenApi, RefOr};

use crate::error::ApiError;
use crate::hints;

/// The paths and methods that need a token or a key, with their query parameters, by the path's pattern.
pub(crate) struct ProtectedRoutes(HashMap<String, Vec<(Method, Vec<String>)>>);

impl ProtectedRoutes {
    pub(crate) fn of(document: &OpenApi) -> Self {
        let protected = |item: &PathItem| {
            let methods = methods(item).into_iter();
            let methods = methods.filter_map(|(method, operation)| Some((method, operation.as_ref()?)));
            let protected = methods.filter(|(_, operation)| operation.security.is_some());
            protected.map(|(method, operation)| (method, names(operation))).collect()
        };
        Self(document.paths.paths.iter().map(|(path, item)| (path.clone(), protected(item))).collect())
    }

    /// Whether a path wants a token or a key for the method. `path` is a pattern; a path without parameters is its own.
    pub(crate) fn contains(&self, path: &str, method: &Method) -> bool {
        self.parameters(path, if method == Method::HEAD { &Method::GET } else { method }).is_some()
    }

    fn parameters(&self, pattern: &str, method: &Method) -> Option<&Vec<String>> {
        self.0.get(pattern)?.iter().find(|(known, _)| known == method).map(|(_, parameters)| parameters)
    }

    /// What is wrong with the query of a request.
    pub(crate) fn check(&self, request: &ServiceRequest) -> Result<(), ApiError> {
        if request.query_string().is_empty() {
            return Ok(());
        }
        let Some(pattern) = request.match_pattern() else { return Ok(()) };
        let Some(known) = self.parameters(&pattern, request.method()) else { return Ok(()) };
        let given = web::Query::<Vec<(String, String)>>::from_query(request.query_string())
            .map_err(|error| ApiError::field("query", error.to_string()))?;
        match given.iter().find(|(name, _)| !known.contains(name)) {
            Some((name, _)) => {
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                Err(ApiError::field(name, hints::unknown("query parameter", name, &known)))
            }
            None => Ok(()),
        }
    }
}

fn methods(item: &PathItem) -> [(Method, &Option<Operation>); 5] {
    [
        (Method::GET, &item.get),
        (Method::POST, &item.post),
        (Method::PUT, &item.put),
        (Method::PATCH, &item.patch),
        (Method::DELETE, &item.delete),
    ]
}

fn names(operation: &Operation) -> Vec<String> {
    let parameters = operation.parameters.iter().flatten();
    let own = parameters.filter_map(|parameter| match parameter {
        RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Query => Some(parameter.name.clone()),
        RefOr::T(_) | RefOr::Ref(_) => None,
    });
    own.collect()
}
