use std::time::Duration;

use bytes::Bytes;
use domain::{DomainEvent, Event};
use lapin::options::BasicPublishOptions;
use lapin::protocol::basic::AMQPProperties;
use lapin::{Channel, Confirmation, Connection, PublisherConfirm};
use tokio::time::timeout;

use crate::topology::short;
use crate::wire::encode_event;
use crate::wire::published_now;
use crate::{BrokerConfig, Intake};

/// How long a batch may take to be published and confirmed.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
const PERSISTENT: u8 = 2;

/// Publishes what happens to webhooks and deliveries themselves.
pub struct DomainEvents {
    config: BrokerConfig,
    channel: Option<(Connection, Channel)>,
}

impl DomainEvents {
    /// Connects when there is something to publish, not before.
    pub fn new(config: BrokerConfig) -> Self {
        Self { config, channel: None }
    }

    /// Publishes events in their order to whoever is bound to their exchange, and those with `true` to the dispatchers too.
    /// Says how many of them, from the first, the broker has: those after may be there or not, and are to be published again.
    pub async fn publish(&mut self, events: &[(&DomainEvent, bool)]) -> (usize, Result<(), String>) {
        let mut confirmed = 0;
        let published = timeout(CONFIRM_TIMEOUT, self.try_publish(events, &mut confirmed)).await;
        let result = published.unwrap_or_else(|_| Err("the broker did not confirm in time".to_owned()));
        if result.is_err() {
            self.channel = None;
        }
        (confirmed, result)
    }

    async fn try_publish(
        &mut self,
        events: &[(&DomainEvent, bool)],
        confirmed: &mut usize,
    ) -> Result<(), String> {
        let channel = self.channel().await?;
        let domain = self.config.topology.domain_exchange();
        let dispatch = self.config.topology.events_exchange(Intake::Shared);
        let mut confirms = Vec::with_capacity(events.len());
        for (event, is_wanted) in events {
            // Nobody needs to listen to the first; the second leads to a queue.
            let told = send(&channel, &domain, event, false).await.map_err(text)?;
            let delivered = match is_wanted {
                true => Some(send(&channel, &dispatch, event, true).await.map_err(text)?),
                false => None,
            };
            confirms.push((told, delivered));
        }
        for (told, delivered) in confirms {
            check(told.await)?;
            if let Some(delivered) = delivered {
                check(delivered.await)?;
            }
            *confirmed += 1;
        }
        Ok(())
    }

    async fn channel(&mut self) -> Result<Channel, String> {
        let open = match self.channel.take() {
            Some(open) if open.0.status().connected() && open.1.status().connected() => open,
            _ => {
                let connected = self.config.connect_to_publish("domain events").await;
                connected.map_err(|error| error.to_string())?
            }
        };
        Ok(self.channel.insert(open).1.clone())
    }
}

fn check(confirmation: lapin::Result<Confirmation>) -> Result<(), String> {
    match confirmation.map_err(text)? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(_)) | Confirmation::Nack(_) | Confirmation::NotRequested => {
            Err("the broker did not take it".to_owned())
        }
    }
}

fn text(error: lapin::Error) -> String {
    error.to_string()
}

async fn send(
    channel: &Channel,
    exchange: &str,
    event: &DomainEvent,
    mandatory: bool,
) -> lapin::Result<PublisherConfirm> {
    let properties = AMQPProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(PERSISTENT)
        .with_message_id(event.id.as_str().into())
        .with_type(event.event_type.as_str().into())
        .with_headers(published_now());
    let options = BasicPublishOptions { mandatory, ..BasicPublishOptions::default() };
    let routing_key = event.event_type.as_str().into();
    channel.basic_publish(short(exchange.to_owned()), routing_key, options, &encode(event), properties).await
}

fn encode(event: &DomainEvent) -> Bytes {
    let DomainEvent { tenant_id, id, event_type, occurred_at, data } = event;
    let event = Event {
        tenant_id: *tenant_id,
        id: id.clone(),
        event_type: event_type.clone(),
        occurred_at: *occurred_at,
        session_id: None,
        ordering_key: None,
        trace: None,
        deliver_at: None,
        tags: Vec::new(),
        body: Bytes::new(),
    };
    encode_event(&event, data)
}
