-- A ledger as version 1 left it. Frozen: files like this have to be read for ever.
PRAGMA journal_mode = WAL;
CREATE TABLE schema_version (version INTEGER NOT NULL) STRICT;
INSERT INTO schema_version VALUES (1);
CREATE TABLE owner (
    id INTEGER PRIMARY KEY, run TEXT NOT NULL, bottle TEXT NOT NULL, agent TEXT, pid INTEGER NOT NULL,
    start_time INTEGER NOT NULL, boot_id TEXT NOT NULL, at_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE chain (id INTEGER PRIMARY KEY, scopes TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE chain_scope (
    chain INTEGER NOT NULL, scope TEXT NOT NULL, PRIMARY KEY (chain, scope)
) STRICT, WITHOUT ROWID;
CREATE TABLE dispatched (
    id BLOB PRIMARY KEY, owner INTEGER NOT NULL, meter TEXT NOT NULL, model TEXT, chain INTEGER NOT NULL,
    at_ms INTEGER NOT NULL, worst TEXT NOT NULL, hold_weighted INTEGER NOT NULL, hold_raw INTEGER NOT NULL,
    output INTEGER, held INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE spend (
    number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, owner INTEGER NOT NULL, run TEXT, bottle TEXT, agent TEXT,
    meter TEXT NOT NULL, model TEXT, chain INTEGER NOT NULL, at_ms INTEGER NOT NULL, ended_ms INTEGER NOT NULL,
    input INTEGER NOT NULL, cache_write INTEGER NOT NULL, cache_read INTEGER NOT NULL, output INTEGER NOT NULL,
    weighted INTEGER NOT NULL, raw INTEGER NOT NULL, over_weighted INTEGER NOT NULL, over_raw INTEGER NOT NULL,
    estimated INTEGER NOT NULL
) STRICT;
CREATE INDEX spend_at ON spend (at_ms);
CREATE TABLE cap (
    scope TEXT NOT NULL, meter TEXT NOT NULL, kind TEXT NOT NULL, amount INTEGER NOT NULL, count TEXT,
    time_window TEXT, at_ms INTEGER NOT NULL, PRIMARY KEY (scope, meter, kind)
) STRICT, WITHOUT ROWID;
CREATE TABLE top_up (
    number INTEGER PRIMARY KEY, scope TEXT NOT NULL, meter TEXT NOT NULL, kind TEXT NOT NULL, amount INTEGER NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE warned (
    scope TEXT NOT NULL, meter TEXT NOT NULL, kind TEXT NOT NULL, cap INTEGER NOT NULL, percent INTEGER NOT NULL,
    since_ms INTEGER NOT NULL, PRIMARY KEY (scope, meter, kind, cap, percent, since_ms)
) STRICT, WITHOUT ROWID;
CREATE TABLE enforcement (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, event TEXT NOT NULL
) STRICT;
CREATE TABLE projection (one INTEGER PRIMARY KEY CHECK (one = 1), up_to INTEGER NOT NULL) STRICT;
INSERT INTO projection VALUES (1, 0);
INSERT INTO owner VALUES (7, 'r7', 'dev', NULL, 1234, 99, 'boot', 1750000000000);
INSERT INTO chain VALUES (1, '[{"run":"r7"},"host"]');
INSERT INTO chain_scope VALUES (1, 'run:r7'), (1, 'host');
INSERT INTO spend VALUES
    (NULL, x'00000000000000000000000000000001', 7, 'r7', NULL, NULL, 'anthropic', 'm', 1, 1750000000000, 1750000001000,
     100, 0, 0, 50, 150000, 150000, 0, 0, 0),
    (NULL, x'00000000000000000000000000000002', 7, 'r7', NULL, NULL, 'anthropic', 'm', 1, 1750000060000, 1750000061000,
     100, 0, 0, 50, 150000, 150000, 0, 0, 1);
INSERT INTO dispatched VALUES
    (x'00000000000000000000000000000003', 7, 'anthropic', 'm', 1, 1750000120000,
     '{"input":100,"caching":"impossible","output":836,"output_min":256,"answers":1}', 1000000, 1000000, 836, 836);
