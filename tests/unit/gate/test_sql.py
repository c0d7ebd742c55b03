"""Statements for database clients: what is proved to read, and the tricks that must not pass for it."""

import pytest

from deployments.gate.sql import judge
from deployments.gate.tables import Base

READS = [
    ("sql-postgres", "SELECT 1"),
    (
        "sql-postgres",
        "select a, count(*) filter (where b) from t group by a having count(*) > 1 order by 2 limit 5",
    ),
    ("sql-postgres", "with x as (select 1) select * from x"),
    ("sql-postgres", "select 'drop table t; -- no' as text"),
    ("sql-postgres", "select data->'a'->>'b' from t where data @> '{}' and x ~ '^a'"),
    ("sql-postgres", "explain (format json) select 1"),
    ("sql-postgres", "\\d+ orders"),
    ("sql-postgres", "select $$a$$"),
    ("sql-postgres", "select pid from pg_stat_activity where state <> $$idle$$ and usename = 'app'"),
    ("sql-mysql", 'show global status like "Threads%";'),
    ("mongosh", 'db.currentOp({"secs_running": {$gt: 5}})'),
    ("sql-postgres", "show all;"),
    ("sql-mysql", "show slave status\\G"),
    ("sql-mysql", "select @@version, now()"),
    ("sql-sqlite", ".schema orders"),
    ("sql-sqlite", "pragma table_info(orders)"),
    ("sql-duckdb", "summarize events"),
    ("sql-clickhouse", "select uniq(a) from t"),
    ("sql-bigquery", "select * from `project-x.data.table_2026` limit 3"),
    ("mongosh", "db.t.find({a: {$gte: 3}}).sort({a: -1}).limit(2)"),
]
HELD = [
    ("sql-postgres", ""),
    ("sql-postgres", "with x as (delete from t returning *) select * from x"),
    ("sql-postgres", "with x as (insert into t values (1) returning *) select 1"),
    ("sql-postgres", "select 1 into t"),
    ("sql-postgres", "select * from t for update"),
    ("sql-postgres", "select * from t for share"),
    ("sql-postgres", "select pg_sleep(9)"),
    ("sql-postgres", "select pg_catalog.pg_read_file('x')"),
    ("sql-postgres", "select evil.lower(x) from t"),
    ("sql-postgres", "select (lo_import('/etc/passwd'))"),
    ("sql-postgres", "select * from t where exists (select pg_terminate_backend(1))"),
    ("sql-postgres", "select * from dblink('host=x', 'select 1') as t(a int)"),
    ("sql-postgres", "select nextval('s')"),
    ("sql-postgres", "explain analyze select 1"),
    ("sql-postgres", "explain (analyze) select 1"),
    ("sql-postgres", "explain (format json, analyze on) select 1"),
    ("sql-postgres", "explain delete from t"),
    ("sql-postgres", "select 'a\\'; drop table t; --'"),
    ("sql-postgres", "select E'\\''; drop table t; --'"),
    ("sql-postgres", "select $$a'$$; drop table t; select $$'b$$"),
    ("sql-postgres", "select 'a$$', pg_terminate_backend(1), '$$b'"),
    ("sql-postgres", "select $$a$$; drop table t; select $$b$$"),
    ("sql-mysql", 'show variables like "a" or sleep(5) or "b"'),
    ("sql-postgres", "select $x$a$x$"),
    ("sql-postgres", "select 1 /* /* */ ; drop table t; /* */ */"),
    ("sql-postgres", "select 1 --x\n; drop table t"),
    ("sql-postgres", "show all; drop table t"),
    ("sql-postgres", "\\d `id`"),
    ("sql-postgres", "\\d x \\! id"),
    ("sql-postgres", "\\d :x"),
    ("sql-postgres", "\\d\nselect 1"),
    ("sql-postgres", "\\g | sh"),
    ("sql-postgres", "\\watch"),
    ("sql-postgres", "\\setenv PAGER sh"),
    ("sql-postgres", "\\edit"),
    ("sql-postgres", "copy t to '/tmp/x'"),
    ("sql-postgres", "do 'begin end'"),
    ("sql-postgres", "lock table t"),
    ("sql-postgres", "set role admin"),
    ("sql-postgres", "select setval('s', 1)"),
    ("sql-mysql", "select /*!99999 1, */ 1"),
    ("sql-mysql", "select /*M! 1, */ 1"),
    ("sql-mysql", "select /*+ SET_VAR(x=1) */ 1"),
    ("sql-mysql", "select 1 into outfile 'x'"),
    ("sql-mysql", "select 1 into @x"),
    ("sql-mysql", "select @x := 1"),
    ("sql-mysql", "select load_file('/etc/passwd')"),
    ("sql-mysql", "select sleep(9)"),
    ("sql-mysql", "select 'a\\'', 1; drop table t; -- '"),
    ("sql-mysql", "select 1\nsystem id"),
    ("sql-mysql", "select 1;\nsource x"),
    ("sql-mysql", "\\! id"),
    ("sql-mysql", "show create user root"),
    ("sql-mysql", "select 1 # x"),
    ("sql-mysql", "handler t open"),
    ("sql-sqlite", ".shell id"),
    ("sql-sqlite", ".output x"),
    ("sql-sqlite", ".tables\n.shell id"),
    ("sql-sqlite", "pragma journal_mode=wal"),
    ("sql-sqlite", "select load_extension('x')"),
    ("sql-sqlite", "attach 'x' as y"),
    ("sql-duckdb", "select * from 'x.csv'"),
    ("sql-duckdb", 'select * from "x.csv"'),
    ("sql-duckdb", "from 'x.csv'"),
    ("sql-duckdb", "select * from read_blob('/etc/shadow')"),
    ("sql-duckdb", "select getenv('HOME')"),
    ("sql-clickhouse", "select * from file('x')"),
    ("sql-clickhouse", "select * from s3('http://x')"),
    ("sql-clickhouse", "select 1 into outfile 'x'"),
    ("sql-clickhouse", "select dictGet('d', 'a', 1)"),
    ("sql-bigquery", "export data options(uri='gs://x') as select 1"),
    ("sql-bigquery", "select * from external_query('c', 'select 1')"),
    ("mongosh", "db.t.drop()"),
    ("mongosh", "db.t.find({$where: 'x'})"),
    ("mongosh", "db.t.find({'$where': 'x'})"),
    ("mongosh", "db.t.aggregate([{$out: 'x'}])"),
    ("mongosh", "db.t.aggregate([{$lookup: {}}, {'$merge': 'x'}])"),
    ("mongosh", "db.t.find().forEach(printjson)"),
    ("mongosh", "db.t.find(); db.t.drop()"),
    ("mongosh", "db.t.find(process.exit())"),
    ("mongosh", "db.t.find((() => 1)())"),
    ("mongosh", "printjson(db.t.find()) + db.t.drop()"),
]


@pytest.mark.parametrize(("role", "text"), READS)
def test_a_read_is_a_read(role: str, text: str) -> None:
    assert judge(role, text)[0] is Base.R0


@pytest.mark.parametrize(("role", "text"), HELD)
def test_what_is_not_proved_is_held(role: str, text: str) -> None:
    assert judge(role, text)[0] in {Base.R2, Base.UNKNOWN, Base.OPAQUE, Base.R3}


@pytest.mark.parametrize(
    ("role", "text"),
    [
        ("sql-postgres", "select * from pg_shadow"),
        ("sql-postgres", "select password_hash from users"),
        ("sql-mysql", "select user, authentication_string from mysql.user"),
        ("mongosh", "db.system.users.find()"),
    ],
)
def test_credentials_are_more_than_a_read(role: str, text: str) -> None:
    assert judge(role, text)[0] is Base.R1


@pytest.mark.parametrize(
    "text", ["drop table t", "delete from t", "update t set a = 1", "truncate t", "grant all on t to x"]
)
def test_destruction_is_called_so(text: str) -> None:
    for role in ("sql-postgres", "sql-mysql", "sql-sqlite"):
        assert judge(role, text)[0] is Base.R3


@pytest.mark.parametrize("joiner", ["; ", ";\n", " ;; ", "; /* x */ "])
def test_the_worst_statement_decides(joiner: str) -> None:
    for role, text in READS:
        if role.startswith("sql-") and text[0] not in "\\." and "\\G" not in text:
            assert judge(role, f"{text}{joiner}drop table t")[0] is Base.R3
            assert judge(role, f"drop table t{joiner}{text}")[0] is Base.R3


def test_length_and_depth_are_bounded() -> None:
    assert judge("sql-postgres", "select " + "1," * 6_000 + "1")[0] is not Base.R0
    assert judge("sql-postgres", "select " + "(" * 2_000 + "1" + ")" * 2_000)[0] is not Base.R0
    assert judge("mongosh", "db.t.find(" + "{" * 3_000)[0] is not Base.R0
