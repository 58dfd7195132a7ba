use test_support::TestDatabase;

/// The queries that the runbook tells operators to ask.
fn queries() -> Vec<String> {
    let runbook = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/RUNBOOK.md");
    let runbook = std::fs::read_to_string(runbook).unwrap();
    let blocks = runbook.split("```sql\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_the_runbook_is_answered() {
    let client = TestDatabase::create().await.client().await;
    let queries = queries();
    assert!(queries.len() >= 6);
    for query in queries {
        if let Err(error) = client.simple_query(&query).await {
            panic!("{error:?} in {query}");
        }
    }
}
