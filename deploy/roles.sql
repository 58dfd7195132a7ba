-- Makes the roles that Postrider's services have, and a user for each service that is given a password. For a superuser, or
-- somebody else who may create roles, before `postrider migrate`, which grants the roles what they need:
--
--   psql --set=gateway_password=… --set=dispatcher_password=… --file=deploy/roles.sql
--
-- Further users: reader_password (`postrider doctor`, `postrider audit`), autoscaler_password. Safe to run again: it then sets
-- the passwords. Users of other names are as good: GRANT postrider_gateway TO them.
\set ON_ERROR_STOP 1

SELECT format('CREATE ROLE %I', name) FROM unnest(ARRAY['postrider_gateway', 'postrider_dispatcher', 'postrider_reader',
    'postrider_autoscaler']) AS name WHERE to_regrole(name) IS NULL \gexec

\if :{?gateway_password}
SELECT 'CREATE ROLE gateway LOGIN IN ROLE postrider_gateway' WHERE to_regrole('gateway') IS NULL \gexec
ALTER ROLE gateway PASSWORD :'gateway_password';
\endif

\if :{?dispatcher_password}
SELECT 'CREATE ROLE dispatcher LOGIN IN ROLE postrider_dispatcher' WHERE to_regrole('dispatcher') IS NULL \gexec
ALTER ROLE dispatcher PASSWORD :'dispatcher_password';
\endif

\if :{?reader_password}
SELECT 'CREATE ROLE reader LOGIN IN ROLE postrider_reader' WHERE to_regrole('reader') IS NULL \gexec
ALTER ROLE reader PASSWORD :'reader_password';
\endif

\if :{?autoscaler_password}
SELECT 'CREATE ROLE autoscaler LOGIN IN ROLE postrider_autoscaler' WHERE to_regrole('autoscaler') IS NULL \gexec
ALTER ROLE autoscaler PASSWORD :'autoscaler_password';
\endif
