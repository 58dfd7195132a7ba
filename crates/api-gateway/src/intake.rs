//! Which way an event takes to the dispatchers: shared by all of them, or, where some webhook wants order, to one at a time.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broker::{Intake, Parcel, PublishError, Publisher};
use domain::{Event, TenantId};
use futures_util::future::join_all;
use serde_json::value::RawValue;
use store::Store;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::metrics::Metrics;
use crate::routes::events::Publishable;

/// How often the tenants with ordered webhooks are read.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// For how long they are believed. After that every event that could need order is kept in order.
const BELIEVED_FOR: Duration = Duration::from_secs(5);

/// The publishers, and what decides between them.
#[derive(Clone)]
pub(crate) struct Intakes {
    shared: Publisher,
    in_order: Publisher,
    metrics: Metrics,
    tenants: Arc<Mutex<Option<TenantsWithOrder>>>,
}

struct TenantsWithOrder {
    ids: HashSet<TenantId>,
    read_at: Instant,
}

impl Intakes {
    pub(crate) fn new(shared: Publisher, in_order: Publisher, metrics: Metrics) -> Self {
        Self { shared, in_order, metrics, tenants: Arc::default() }
    }

    /// Publishes an event, and returns when the broker has it on disk.
    pub(crate) async fn publish(&self, event: &Event, data: &RawValue) -> Result<(), PublishError> {
        let mut parcel = Parcel::default();
        parcel.push(event, data);
        self.publish_parcel(self.choose(event), parcel, 1).await
    }

    /// Publishes events in few messages, and returns when the broker has answered for each of them. Those that need order keep
    /// the one in which they are given.
    pub(crate) async fn publish_all(&self, events: &[Publishable]) -> Vec<Result<(), PublishError>> {
        let mut packed: Vec<(Intake, Parcel, Vec<usize>)> = Vec::new();
        for (place, Publishable { event, data, .. }) in events.iter().enumerate() {
            let intake = self.choose(event);
            let last = packed.iter_mut().rfind(|(of, ..)| *of == intake);
            match last.filter(|(_, parcel, _)| !parcel.is_full()) {
                Some((_, parcel, places)) => {
                    parcel.push(event, data);
                    places.push(place);
                }
                None => {
                    let mut parcel = Parcel::default();
                    parcel.push(event, data);
                    packed.push((intake, parcel, vec![place]));
                }
            }
        }
        // Polled, and so handed in, in their order.
        let publishing = packed.into_iter().map(|(intake, parcel, places)| async move {
            (self.publish_parcel(intake, parcel, places.len()).await, places)
        });
        let mut results = vec![Ok(()); events.len()];
        for (result, places) in join_all(publishing).await {
            for place in places {
                results[place] = result;
            }
        }
        results
    }

    async fn publish_parcel(
        &self,
        intake: Intake,
        parcel: Parcel,
        events: usize,
    ) -> Result<(), PublishError> {
        let publisher = match intake {
            Intake::Shared => &self.shared,
            Intake::InOrder => &self.in_order,
        };
        let began = Instant::now();
        let result = publisher.publish(parcel).await;
        self.metrics.published(result, events, began.elapsed());
        result
    }

    /// Whether the broker can be published to at the moment.
    pub(crate) fn are_ready(&self) -> bool {
        self.shared.is_ready() && self.in_order.is_ready()
    }

    /// Keeps what is known of tenants current, until told to stop.
    pub(crate) async fn follow(self, store: Store, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let read_at = Instant::now();
            match store.tenants_with_order().await {
                Ok(ids) => *self.lock() = Some(TenantsWithOrder { ids, read_at }),
                Err(error) => warn!(%error, "which tenants want order could not be read"),
            }
            tokio::select! {
                () = sleep(REFRESH_INTERVAL) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    fn choose(&self, event: &Event) -> Intake {
        if !event.has_order() {
            return Intake::Shared;
        }
        match &*self.lock() {
            Some(known)
                if known.read_at.elapsed() < BELIEVED_FOR && !known.ids.contains(&event.tenant_id) =>
            {
                Intake::Shared
            }
            // It is wanted, or nobody knows: order costs time, never an event.
            Some(_) | None => Intake::InOrder,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<TenantsWithOrder>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
