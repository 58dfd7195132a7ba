//! Which way an event takes to the dispatchers: shared by all of them, or, where some webhook wants order, to one at a time.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broker::{Intake, Parcel, PublishError, Publisher, Publishers, Topology};
use domain::{Event, TenantId};
use futures_util::future::join_all;
use serde_json::value::RawValue;
use store::Store;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use traces::{Open, Tracer};
use tracing::warn;

use crate::metrics::Metrics;
use crate::routes::events::Publishable;
use crate::spans::{self, Sent};

/// How often the tenants with ordered webhooks are read.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// For how long they are believed. After that every event that could need order is kept in order.
const BELIEVED_FOR: Duration = Duration::from_secs(5);

/// The publishers of an HTTP worker, and what decides between them.
pub(crate) struct Intakes {
    shared: Publisher,
    in_order: Publisher,
    orders: Orders,
    metrics: Metrics,
    tracer: Tracer,
    topology: Topology,
}

/// Which tenants have webhooks that want order. All clones know the same.
#[derive(Clone, Default)]
pub(crate) struct Orders(Arc<Mutex<Option<TenantsWithOrder>>>);

/// Events that travel together.
struct Packed<'a> {
    intake: Intake,
    parcel: Parcel,
    events: usize,
    first: &'a Event,
    /// The span of its way to the broker. Boxed: few events are traced, and the others need no place for it.
    open: Option<Box<Open>>,
}

struct TenantsWithOrder {
    ids: HashSet<TenantId>,
    read_at: Instant,
}

impl Intakes {
    /// Starts publishers on this thread.
    pub(crate) fn start(
        publishers: &Publishers,
        orders: Orders,
        metrics: Metrics,
        tracer: Tracer,
        topology: Topology,
    ) -> Self {
        let [shared, in_order] = Intake::ALL.map(|intake| publishers.start(intake));
        Self { shared, in_order, orders, metrics, tracer, topology }
    }

    /// Publishes an event, and returns when the broker has it on disk.
    pub(crate) async fn publish(&self, event: &Event, data: &RawValue) -> Result<(), PublishError> {
        let mut packed = self.pack(self.orders.choose(event), event);
        packed.push(event, data);
        self.publish_packed(&mut packed).await
    }

    /// Publishes events in few messages, and returns when the broker has answered for each of them. Those that need order keep
    /// the one in which they are given.
    pub(crate) async fn publish_all(&self, events: &[Publishable<'_>]) -> Vec<Result<(), PublishError>> {
        let mut packed: Vec<(Packed<'_>, Vec<usize>)> = Vec::new();
        for (place, Publishable { event, data, .. }) in events.iter().enumerate() {
            let intake = self.orders.choose(event);
            let last = packed.iter().rposition(|(of, _)| of.intake == intake);
            let last = last.filter(|last| !packed[*last].0.parcel.is_full()).unwrap_or_else(|| {
                packed.push((self.pack(intake, event), Vec::new()));
                packed.len() - 1
            });
            let (into, places) = &mut packed[last];
            into.push(event, data);
            places.push(place);
        }
        // Polled, and so handed in, in their order.
        let publishing = packed
            .into_iter()
            .map(|(mut packed, places)| async move { (self.publish_packed(&mut packed).await, places) });
        let mut results = vec![Ok(()); events.len()];
        for (result, places) in join_all(publishing).await {
            for place in places {
                results[place] = result;
            }
        }
        results
    }

    fn pack<'a>(&self, intake: Intake, first: &'a Event) -> Packed<'a> {
        let open = spans::begin_message(&self.tracer).map(Box::new);
        Packed { intake, parcel: Parcel::default(), events: 0, first, open }
    }

    async fn publish_packed(&self, packed: &mut Packed<'_>) -> Result<(), PublishError> {
        let publisher = match packed.intake {
            Intake::Shared => &self.shared,
            Intake::InOrder => &self.in_order,
        };
        let began = Instant::now();
        let result = publisher.publish(std::mem::take(&mut packed.parcel)).await;
        self.metrics.published(result, packed.events, began.elapsed());
        if let Some(open) = packed.open.take() {
            let exchange = self.topology.ingest_exchange(packed.intake);
            let sent = Sent { exchange, event: packed.first, events: packed.events, result };
            spans::end_message(&self.tracer, *open, sent);
        }
        result
    }
}

impl Packed<'_> {
    fn push(&mut self, event: &Event, data: &RawValue) {
        self.parcel.push(event, data, self.open.as_ref().map(|open| &open.context));
        self.events += 1;
    }
}

impl Orders {
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
