-- A second wall between tenants: whatever a query forgets, the database shows the gateway the rows of one tenant only. Which
-- tenant, the gateway says in each transaction (`postrider.tenant`). The policies themselves, and what each role may do, are
-- made after the migrations, as soon as there are the roles (access.sql); without them nothing changes for anybody.

-- Forces row-level security on a table, and gives it policies for those of the roles that exist. Changes nothing, and locks
-- nothing, where all is as it should be. `of_tenant` says which rows are the tenant's.
CREATE FUNCTION protect_tenant_table(
    table_name text,
    of_tenant text DEFAULT 'tenant_id = nullif(current_setting(''postrider.tenant'', true), '''')::uuid'
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    protected regclass := table_name::regclass;
    over_tenants name[];
BEGIN
    IF EXISTS (SELECT FROM pg_class WHERE oid = protected AND NOT (relrowsecurity AND relforcerowsecurity)) THEN
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', protected);
    END IF;
    SELECT array_agg(rolname ORDER BY rolname) INTO over_tenants FROM pg_roles
    WHERE rolname IN ('postrider_dispatcher', 'postrider_reader', 'postrider_autoscaler')
        OR oid = (SELECT relowner FROM pg_class WHERE oid = protected);
    PERFORM put_policy(protected, 'all_tenants', 'ALL', over_tenants, 'true');
    IF to_regrole('postrider_gateway') IS NOT NULL THEN
        PERFORM put_policy(protected, 'one_tenant', 'ALL', ARRAY['postrider_gateway'], of_tenant);
    END IF;
END
$$;

-- Makes a policy, or gives the one that is there to other roles.
CREATE FUNCTION put_policy(protected regclass, policy name, command text, roles name[], condition text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    names text := (SELECT string_agg(quote_ident(role), ', ') FROM unnest(roles) AS role);
    now_for name[] := (SELECT ARRAY(SELECT rolname FROM pg_roles WHERE oid = ANY (polroles) ORDER BY rolname)
        FROM pg_policy WHERE polrelid = protected AND polname = policy);
BEGIN
    IF now_for IS NULL THEN
        EXECUTE format('CREATE POLICY %I ON %s FOR %s TO %s USING (%s)', policy, protected, command, names, condition);
    ELSIF now_for <> roles THEN
        EXECUTE format('ALTER POLICY %I ON %s TO %s', policy, protected, names);
    END IF;
END
$$;

-- A dispatcher owns no table, but makes partitions and drops them: these run as the owner.
CREATE OR REPLACE FUNCTION create_partition(parent text, of_day date) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    partition text := format('%s_%s', parent, to_char(of_day, 'YYYYMMDD'));
    from_value text;
    to_value text;
    partition_column text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_partitioned_table WHERE partrelid = to_regclass(parent)) THEN
        RAISE EXCEPTION 'the table % has no partitions', parent;
    END IF;
    IF to_regclass(partition) IS NOT NULL THEN
        RETURN false;
    END IF;
    IF parent = 'events' THEN
        partition_column := 'day';
        from_value := of_day::text;
        to_value := (of_day + 1)::text;
    ELSE
        partition_column := 'started_at';
        from_value := of_day::text || ' 00:00:00+00';
        to_value := (of_day + 1)::text || ' 00:00:00+00';
    END IF;
    EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent || '_default');
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', partition, parent);
    EXECUTE format(
        'WITH moved AS (DELETE FROM %I WHERE %I >= %L AND %I < %L RETURNING *) INSERT INTO %I SELECT * FROM moved',
        parent || '_default', partition_column, from_value, partition_column, to_value, partition);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        parent, partition, from_value, to_value);
    PERFORM protect_tenant_table(partition);
    RETURN true;
END
$$;

CREATE FUNCTION drop_partition(parent text, of_day date) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_partitioned_table WHERE partrelid = to_regclass(parent)) THEN
        RAISE EXCEPTION 'the table % has no partitions', parent;
    END IF;
    EXECUTE format('DROP TABLE %I', parent || to_char(of_day, '_YYYYMMDD'));
END
$$;

-- Whoever calls them cannot put tables of its own in the place of ours.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION create_partition SET search_path = %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION drop_partition SET search_path = %I, pg_temp', current_schema());
END
$$;
REVOKE EXECUTE ON FUNCTION create_partition, drop_partition FROM PUBLIC;
