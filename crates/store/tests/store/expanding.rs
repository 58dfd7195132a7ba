//! Migrations only add, so that the previous version runs on the new schema: what it reads is still there, and what it writes is
//! still taken. See `migrations/README.md`. That the previous version's programs really do is fault 17 of `./scripts/faults`.

use std::collections::BTreeMap;

use test_support::TestDatabase;
use tokio_postgres::Client;

const COLUMNS: &str = "SELECT c.relname || '.' || a.attname,
        format_type(a.atttypid, a.atttypmod),
        a.attnotnull,
        a.atthasdef OR a.attidentity <> '' OR NOT a.attnotnull
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND a.attnum > 0 AND NOT a.attisdropped";

// A check over new columns alone holds for rows that leave them empty, as the previous version's do.
const CHECKS: &str = "SELECT c.relname || ': ' || pg_get_constraintdef(k.oid), c.relname,
        array(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (k.conkey))
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
    WHERE c.relnamespace = 'public'::regnamespace AND k.contype IN ('c', 'f', 'x')";

// The previous version may name one in ON CONFLICT, and may write what a new one refuses.
const UNIQUE: &str = "SELECT c.relname || ': ' || regexp_replace(pg_get_indexdef(i.indexrelid), '^.* USING ', ''), c.relname,
        array(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey::smallint[]))
    FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
    WHERE c.relnamespace = 'public'::regnamespace AND i.indisunique";

const FUNCTIONS: &str = "SELECT oid::regprocedure::text || ' gives ' || pg_get_function_result(oid)
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prokind = 'f'";

/// What a schema promises to who uses it.
struct Schema {
    columns: BTreeMap<String, Column>,
    /// By table and definition, with the columns they are about.
    checks: BTreeMap<String, (String, Vec<String>)>,
    unique: BTreeMap<String, (String, Vec<String>)>,
    functions: Vec<String>,
}

#[derive(PartialEq)]
struct Column {
    kind: String,
    is_required: bool,
    /// Whether rows can be written that do not name it.
    can_be_left_out: bool,
}

impl Schema {
    async fn read(client: &Client) -> Self {
        let columns = client.query(COLUMNS, &[]).await.unwrap();
        let column = |row: &tokio_postgres::Row| {
            let (kind, is_required, can_be_left_out) = (row.get(1), row.get(2), row.get(3));
            (row.get(0), Column { kind, is_required, can_be_left_out })
        };
        let mut rules = Vec::new();
        for query in [CHECKS, UNIQUE] {
            let rows = client.query(query, &[]).await.unwrap();
            rules.push(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect());
        }
        let unique = rules.pop().unwrap();
        let functions = client.query(FUNCTIONS, &[]).await.unwrap();
        Self {
            columns: columns.iter().map(column).collect(),
            checks: rules.pop().unwrap(),
            unique,
            functions: functions.iter().map(|row| row.get(0)).collect(),
        }
    }

    fn has_table(&self, table: &str) -> bool {
        self.columns.keys().any(|column| column.split_once('.').is_some_and(|(of, _)| of == table))
    }

    /// What the version that was written for this schema could stumble over in `next`.
    fn broken_in(&self, next: &Self) -> Vec<String> {
        let mut broken = Vec::new();
        for (name, column) in &self.columns {
            match next.columns.get(name) {
                None => broken.push(format!("{name} is gone")),
                Some(now) if now.kind != column.kind => broken.push(format!("{name} has another type")),
                Some(now) if now.is_required && !column.is_required => {
                    broken.push(format!("{name} must not be NULL any more"));
                }
                Some(now) if column.can_be_left_out && !now.can_be_left_out => {
                    broken.push(format!("{name} has no default any more"));
                }
                Some(_) => {}
            }
        }
        let is_new = |name: &String| !self.columns.contains_key(name);
        for (name, column) in next.columns.iter().filter(|(name, _)| is_new(name)) {
            let (table, _) = name.split_once('.').unwrap();
            if self.has_table(table) && !column.can_be_left_out {
                broken.push(format!("{name} must be written, and the previous version does not know it"));
            }
        }
        for (rules, now) in [(&self.checks, &next.checks), (&self.unique, &next.unique)] {
            for (rule, (table, columns)) in now.iter().filter(|(rule, _)| !rules.contains_key(*rule)) {
                let is_known = |column: &String| self.columns.contains_key(&format!("{table}.{column}"));
                if self.has_table(table) && (columns.is_empty() || columns.iter().any(is_known)) {
                    broken.push(format!("{rule} may refuse what the previous version writes"));
                }
            }
        }
        let gone = self.unique.keys().filter(|rule| !next.unique.contains_key(*rule));
        broken.extend(gone.map(|rule| format!("{rule} is gone, and may be named by ON CONFLICT")));
        let gone = self.functions.iter().filter(|function| !next.functions.contains(function));
        broken.extend(gone.map(|function| format!("{function} is gone")));
        broken
    }
}

/// Every migration's name and SQL, in order.
fn migrations() -> Vec<(String, String)> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations");
    let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "sql")).collect();
    files.sort();
    let read = |path: &std::path::PathBuf| std::fs::read_to_string(path).unwrap();
    files.iter().map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), read(path))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_migration_leaves_all_that_the_previous_version_uses() {
    let database = TestDatabase::create_empty().await;
    let client = database.client().await;
    let mut before = Schema::read(&client).await;
    for (name, sql) in migrations() {
        client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let after = Schema::read(&client).await;
        assert_eq!(before.broken_in(&after), [""; 0], "{name}");
        before = after;
    }
    assert!(before.columns.len() > 100 && !before.unique.is_empty() && !before.functions.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_previous_version_would_stumble_over_is_found() {
    let database = TestDatabase::create_empty().await;
    let client = database.client().await;
    let schema =
        "CREATE TABLE t (a integer, b text NOT NULL DEFAULT '', c integer CHECK (c > 0), UNIQUE (a));
        CREATE FUNCTION f(integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'";
    client.batch_execute(schema).await.unwrap();
    for (change, is_fine) in [
        ("ALTER TABLE t ADD COLUMN d text", true),
        ("ALTER TABLE t ADD COLUMN d text NOT NULL DEFAULT ''", true),
        ("ALTER TABLE t ADD COLUMN d integer CHECK (d > 0)", true),
        ("CREATE TABLE u (a integer NOT NULL REFERENCES t (a), b integer UNIQUE)", true),
        ("CREATE INDEX ON t (c)", true),
        ("ALTER TABLE t ALTER COLUMN b DROP NOT NULL", true),
        ("ALTER TABLE t DROP CONSTRAINT t_c_check", true),
        ("CREATE OR REPLACE FUNCTION f(integer) RETURNS integer LANGUAGE sql AS 'SELECT 2'", true),
        ("ALTER TABLE t ADD COLUMN d text NOT NULL", false),
        ("ALTER TABLE t DROP COLUMN c", false),
        ("ALTER TABLE t RENAME COLUMN c TO d", false),
        ("ALTER TABLE t ALTER COLUMN c TYPE bigint", false),
        ("ALTER TABLE t ALTER COLUMN a SET NOT NULL", false),
        ("ALTER TABLE t ALTER COLUMN b DROP DEFAULT", false),
        ("ALTER TABLE t ADD CHECK (a > 0)", false),
        ("ALTER TABLE t ADD COLUMN d integer CHECK (d > a)", false),
        ("CREATE UNIQUE INDEX ON t (c)", false),
        ("ALTER TABLE t DROP CONSTRAINT t_a_key", false),
        ("ALTER TABLE t RENAME TO u", false),
        ("DROP TABLE t", false),
        ("DROP FUNCTION f(integer)", false),
    ] {
        let before = Schema::read(&client).await;
        client.batch_execute(&format!("BEGIN; {change}")).await.unwrap();
        let after = Schema::read(&client).await;
        client.batch_execute("ROLLBACK").await.unwrap();
        let broken = before.broken_in(&after);
        assert_eq!(broken.is_empty(), is_fine, "{change}: {broken:?}");
    }
}
