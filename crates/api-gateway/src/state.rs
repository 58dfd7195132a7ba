use std::sync::Arc;

use domain::UrlPolicy;
use sender::Sender;
use service::access_token::TokenVerifier;
use store::Store;

use crate::catalogue::Catalogue;
use crate::intake::Intakes;
use crate::tenants::Tenants;
use crate::test_runs::TestRuns;

/// What every handler can use.
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) intakes: Intakes,
    pub(crate) verifier: TokenVerifier,
    pub(crate) tenants: Arc<Tenants>,
    pub(crate) catalogue: Catalogue,
    pub(crate) url_policy: UrlPolicy,
    /// For tests.
    pub(crate) sender: Sender,
    pub(crate) test_runs: TestRuns,
}
