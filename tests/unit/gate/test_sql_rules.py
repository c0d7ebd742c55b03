"""Statements for database clients, rule by rule: each line here is one that a single wrong condition would misjudge."""

import pytest

from deployments.gate.sql import MAX_CHARACTERS, MAX_MONGO, MAX_NODES, judge
from deployments.gate.tables import Base

PG, MY, LITE, DUCK, CLICK, BIG, MONGO = (
    "sql-postgres", "sql-mysql", "sql-sqlite", "sql-duckdb", "sql-clickhouse", "sql-bigquery", "mongosh",
)  # fmt: skip


def base(role: str, text: str) -> Base:
    return judge(role, text)[0]


@pytest.mark.parametrize(
    ("role", "text", "expected"),
    [
        # a read of credentials beside something worse is the worse, in whatever order
        (PG, "select password from users; delete from t", Base.R3),
        (PG, "delete from t; select password from users", Base.R3),
        (PG, "select password from users; select 1", Base.R1),
        (PG, "select 1; select password from users", Base.R1),
        (PG, "select 'a'; select password from users", Base.R1),
        (PG, "select password, 'a' from users; select 1", Base.R1),
        # what is plainly destructive is so beside what is only not known
        (PG, "insert into t values (1); delete from t; select 1 where true", Base.R3),
        (PG, "insert into t values ('a'); delete from t; select 1 where true", Base.R3),
        (PG, "update t set a = 'b' where c; delete from t", Base.R3),
        (PG, "notify a; delete from t; select 1 where true", Base.R3),
        (PG, "comment on table t is 'a'; delete from t; select 1 where true", Base.R3),
        (PG, "notify a; notify b", Base.OPAQUE),
        (PG, "notify a; select password from users", Base.OPAQUE),
        (PG, "comment on table t is 'a'; select password from users", Base.OPAQUE),
        (PG, "comment on table t is 'a'; select 1", Base.OPAQUE),
        (PG, "notify a; select 1", Base.OPAQUE),
        (PG, "delete from t where a = 1", Base.OPAQUE),
        (PG, "delete from t where a = 'b'", Base.OPAQUE),
        (PG, "with x as (delete from t) select * from x where a", Base.R3),
        # what does not parse is judged by its words
        (PG, "update t set a = 1 ((", Base.R3),
        (PG, "update t set a = 1 (( where", Base.OPAQUE),
        (PG, "drop the ((", Base.R3),
        (MONGO, "update t set a = 1", Base.OPAQUE),
        (MONGO, "drop the ((", Base.R3),
        (MONGO, "grant x where (", Base.R3),
        (MONGO, "vacuum", Base.OPAQUE),
        (PG, "select fsyncLock(", Base.OPAQUE),
        (PG, ";", Base.OPAQUE),
        (PG, "-- nothing", Base.OPAQUE),
        (PG, "select 'a';;", Base.R0),
        (PG, "select 'a'; ; select 1", Base.R0),
    ],
)
def test_the_worst_of_several_statements_decides(role: str, text: str, expected: Base) -> None:
    assert base(role, text) is expected


@pytest.mark.parametrize(
    "text",
    [
        "select * from evil.now()",
        "select * from evil.lower('x')",
        "select * from evil.generate_series(1, 2)",
        "select * from a join evil.now() on true",
        "select (select * from evil.version())",
        "select crdb_internal.node_id()",
        "select evil.now()",
        'select * from "generate"',  # a table, as a contrast
    ],
)
def test_a_function_of_a_schema_is_none_of_the_known_ones(text: str) -> None:
    assert base(PG, text) is (Base.R0 if '"' in text else Base.OPAQUE)


def test_a_function_that_gives_rows_is_known_by_its_name() -> None:
    assert base(PG, "select * from generate_series(1, 5)") is Base.R0
    assert base(PG, "select * from jsonb_each(d)") is Base.R0
    assert base(PG, "select * from pg_ls_dir('/')") is Base.R3
    assert base(LITE, "select * from pragma_table_info('t')") is Base.R0


@pytest.mark.parametrize("name", ["fsdir", "zipfile", "FsDir", '"fsdir"', "[zipfile]", "main.fsdir"])
def test_sqlite_reads_no_files_through_its_tables(name: str) -> None:
    """The hidden columns of such a table are the arguments of the function of its name."""
    for text in (
        "select data from NAME where path = '/etc/shadow'",
        "select * from NAME('/etc')",
        "select * from t, NAME as u where u.path = '/etc'",
    ):
        assert base(LITE, text.replace("NAME", name)) is Base.OPAQUE


def test_such_a_name_is_a_table_elsewhere() -> None:
    assert base(PG, "select * from fsdir") is Base.R0


@pytest.mark.parametrize(
    ("role", "text"),
    [
        (PG, "select data->>'password' from users"),
        (PG, "select data->'auth'->'api_key' from users"),
        (PG, "select data->>'my-password' from users"),
        (PG, "select data#>>'{auth,token}' from users"),
        (PG, "select data['password'] from users"),
        (PG, "select jsonb_extract_path_text(d, 'auth', 'secret') from t"),
        (PG, "select jsonb_path_query(d, '$.auth.password') from t"),
        (MY, "select json_extract(d, '$.password') from t"),
        (MY, "select d->>'$.refresh_token' from t"),
        (LITE, "select json_extract(d, '$.password') from t"),
        (DUCK, "select d->>'$.password' from t"),
        (CLICK, "select JSONExtractString(d, 'password') from t"),
        (BIG, "select json_value(d, '$.password') from t"),
        (PG, "select current_setting('primary_conninfo')"),
        (PG, "select setting from pg_settings where name = 'primary_connInfo'"),
        (DUCK, "select Current_Setting('s3_secret_access_key')"),
        (PG, "select * from pg_subscription"),
        (PG, "select * from pg_catalog.pg_authid"),
        (PG, 'select * from "pg_shadow"'),
        (PG, "select u.passwd from users u"),
        (PG, "select a as b from c where ssn = '1'"),
        (PG, "table pg_user_mappings"),
        (MY, "select * from mysql.user"),
        (MY, "select * from mysql.servers"),
        (MY, "desc user_tokens"),
        (MONGO, "db.t.find({}, {passwordHash: 1})"),
        (MONGO, "db.t.find({}, {apiKey: 1})"),
        (MONGO, "db.getSiblingDB('admin').getCollection('system.users').find()"),
    ],
)
def test_what_looks_like_credentials_is_more_than_a_read(role: str, text: str) -> None:
    assert base(role, text) is Base.R1


@pytest.mark.parametrize(
    ("role", "text"),
    [
        (PG, "select 'password'"),
        (PG, "select * from events where kind = 'password_reset'"),
        (PG, "select * from pg_subscription_rel"),
        (PG, "select * from users.servers"),
        (PG, "select data->>'name' from t where a = 'secret'"),
        (PG, "select coalesce(a, 'password') from t"),
        (PG, "select d['name'] from t"),
        (PG, "select 1 as conninf"),
        (PG, "select * from t where data @> '{\"password\": 1}'"),
        (PG, "select current_setting('work_mem'), 'password'"),
    ],
)
def test_words_that_only_compare_are_no_credentials(role: str, text: str) -> None:
    assert base(role, text) is Base.R0


# --- what clients and engines read otherwise -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "text"),
    [
        # a line of the client's own in the middle: sqlglot reads columns
        (LITE, "select x.\ngo\n.shell id"),
        (LITE, "select x\n.shell id"),
        (LITE, ".tables\n.excel"),
        (LITE, ".tables\nreindex"),
        (LITE, "select 1\n/\n-1"),
        (LITE, "select a\nGO ;\nfrom t"),
        (DUCK, "select x.\n.shell id"),
        (DUCK, ".tables\ncheckpoint"),
        # the client splits at another word from there on
        (MY, "select 1 delimiter , 2\n, shutdown ,3"),
        (MY, "select 1 as DELIMITER\n, 2"),
        (MY, "select a\ntee\nfrom t"),
        (MY, "select 'a\\'b'"),
        (MY, "select 1 # a"),
        (CLICK, "select 'a\\'b'"),
        (BIG, "select 'a\\'b'"),
        (PG, "select e'\\'' from t"),
        (PG, "select E'\\'' from t"),
        (DUCK, "select e'\\'' from t"),
        (PG, "select a, E'\\x27'"),
        (PG, "select u&'\\0061'"),
        # what describes to psql sets a delimiter for mysql
        (MY, "\\d"),
        (LITE, "\\d"),
        (CLICK, "\\d"),
        # a string of one quote and a string of the other
        (MY, "select '\"', sleep(5), '\"'"),
        (CLICK, 'show tables like "a%"'),
        # comments
        (PG, "explain select 1 -- a\n, pg_sleep(9)"),
        (CLICK, "explain select 1 # a\n, file('x')"),
        (CLICK, "explain select 1 # a\n; drop table t"),
        (MY, "select /*!1 */ 2"),
        (MY, "select /*+ x */ 2"),
        (PG, "select /* a */ 2 /* b */"),
        (PG, "select 1 --a"),
        (PG, "select $a$b$a$"),
        # names with characters that are none of a name
        (PG, 'select "a.b" from t'),
        (PG, 'select * from "x.csv"'),
        (DUCK, 'select * from "x.csv"'),
        (DUCK, 'summarize "x.csv"'),
        (DUCK, "describe 'x.csv'"),
        (LITE, 'select "a.b" from t'),
        (PG, 'select "$.a" from t'),
        (BIG, "select * from `a/b`"),
        (DUCK, "select * from 'x.csv'"),
        (DUCK, "pivot t on a"),
        (PG, "select 1 for update"),
        (PG, "(select * from t for share)"),
        (PG, "select * into u from t"),
        (MY, "select /*+ x */ * from t"),
        (PG, "merge into t using u on true when matched then do nothing"),
        (PG, "create table t (a int)"),
        (PG, "explain analyze select 1"),
        (PG, "explain (costs off, analyze) select 1"),
        (PG, "explain insert into t values (1)"),
        (PG, "show a b c"),
    ],
)  # fmt: skip
def test_what_is_read_in_two_ways_is_held(role: str, text: str) -> None:
    assert base(role, text) in {Base.OPAQUE, Base.R3}


@pytest.mark.parametrize(
    ("role", "text"),
    [
        (LITE, "select a,\n .5\nfrom t"),
        (LITE, "select a\n/ 2 from t"),
        (LITE, "select gone\nfrom going"),
        (LITE, "select 'a\\b'"),
        (LITE, 'select json_extract(d, "$.a[0]")'),
        (PG, "select 'a\\b'"),
        (PG, "select 1\n/\n2"),
        (PG, "select (a).b from t"),
        (LITE, "select fsdir from t"),
        (PG, "explain select 1 -- a\n, 2"),
        (PG, "explain select 'a'; select 'b'"),
        (PG, "select 1 /* a */"),
        (PG, "select 1 -- a"),
        (PG, "select 1 -- a\n;"),
        (PG, "show\nall"),
        (PG, "show all ;\n"),
        (PG, "\\d+ a.b"),
        (PG, "explain (costs off) select 1"),
        (PG, "explain verbose with x as (select 1) select * from x"),
        (PG, "explain select 1; select 2"),
        (PG, "select * from a; table b; show all"),
        (MY, "select 1\\G"),
        (MY, "select 1 \\g ;"),
        (MY, "select * from delimiters"),
        (MY, 'show variables like "a%"'),
        (MY, 'show variables like "a%";'),
        (MY, "select `a` from `b`"),
        (PG, 'select "a b" from "c-d"'),
        (BIG, "select * from `a-b.c.d*`"),
        (DUCK, "describe main.orders"),
        (DUCK, 'summarize "my-table"'),
        (PG, "select '; drop table t' ; select 2"),
        (PG, "select $$a;b$$"),
        (PG, "select $$a$$, 'b', $$c$$"),
        (PG, "values (1), (2)"),
        (PG, "select 1 union all select 2"),
        (PG, "(select 1)"),
        (PG, "select 1 except select 2"),
    ],
)
def test_plain_reads_are_reads(role: str, text: str) -> None:
    assert base(role, text) is Base.R0


@pytest.mark.parametrize(
    "text",
    [
        "select $$a'$$, b, $$'c$$",
        "select $$a'$$, pg_sleep(1), $$'b$$, $$c$$",
        "select '$$, pg_sleep(1), $$'",
        "select '$$', pg_sleep(1), '$$'",
        "select $$a`$$",
        'select $$a"$$',
        "select $$a\\$$",
        "select '$$', $$a$$",
        "select $$a$$, '$$'",
        "select a $$b$$c$$",
        "select $$a$$, \"b\"",
        "select $$a$$ -- b",
        "select $$a$$ /* b */",
        "select $x$a$x$, $$b$$",
        "select $$a$b$$",
    ],
)  # fmt: skip
def test_dollars_quote_only_where_that_is_sure(text: str) -> None:
    assert base(PG, text) is not Base.R0


def test_other_engines_know_no_dollars() -> None:
    for role in (MY, LITE, CLICK, BIG):
        assert base(role, "select $$a$$") is not Base.R0


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_sizes_are_bounded_exactly() -> None:
    long = "select 1" + " " * (MAX_CHARACTERS - len("select 1") - 2) + "+1"
    assert len(long) == MAX_CHARACTERS
    assert (base(PG, long), base(PG, long + " ")) == (Base.R0, Base.OPAQUE)
    for role in (PG, MONGO):
        assert judge(role, " \n") == (Base.OPAQUE, "no statement, or one that is too long")
    ask = "db.t.find({a: '%s'})"
    fits = ask % ("x" * (MAX_MONGO - len(ask) + 2))
    assert len(fits) == MAX_MONGO
    assert (base(MONGO, fits), base(MONGO, fits.replace("x'", "xx'"))) == (Base.R0, Base.OPAQUE)


def test_the_number_of_nodes_is_bounded() -> None:
    def many(count: int) -> str:
        return "select " + ",".join(["1"] * count)

    # The root is the first node; every number is one more.
    assert base(PG, many(MAX_NODES)) is Base.R0
    assert base(PG, many(MAX_NODES + 1)) is Base.OPAQUE


# --- mongosh ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        # a stage, an operator or a value that is put together
        'db.t.aggregate([{["$ou"+"t"]: "victim"}])',
        'db.t.aggregate([{["$out"]: "victim"}])',
        'db.t.aggregate([{"$ou" + "t": "victim"}])',
        "db.t.aggregate([{$out: 'victim'}])",
        "db.t.aggregate([{'$merge': {into: 'x'}}])",
        "db.t.aggregate([{$facet: {a: [{$function: {}}]}}])",
        "db.t.aggregate([{$currentOp: {}}])",
        "db.t.find({['a']: 1})",
        # what is no data
        "db.t.find({}, {x: process.env.HOME})",
        "db.t.find({}, {...process.env})",
        "db.t.find({}, process.env)",
        "db.t.find({process})",
        "db.t.find({a: b})",
        "db.t.find({a: 5..constructor})",
        "db.t.find({a: 'x'.length})",
        "db.t.find({a: [1][0]})",
        "db.t.find({a: {b: 1}.b})",
        "db.t.find({a: `x`})",
        "db.t.find({a: 1 /* x */})",
        "db.t.find({a: // x\n 1})",
        "db.t.find({a: f()})",
        "db.t.find({a: new Function('x')})",
        "db.t.find({a: evilDate('x')})",
        "db.t.find({a: x.Date('x')})",
        "db.t.find({a: \"b\\\"\"})",
        "db.t.find({a: 'b\nc'})",
        # a slash between brackets ends no regular expression, so what follows is no string
        'db.t.find({a: [/[/],"/, process.env.X, ":1,b:"], c: /"/})',
        "db.t.find({a: 4 / 2 / process.env.X})",
        # a string alone is code to the old shell
        "db.t.find('this.a > 1')",
        'db.t.count( "this.a" )',
        "db.t.findOne('sleep')",
        "db.t.aggregate('x')",
        # chains and statements
        "db.t.find().toArray()[0]",
        "db.t.find().forEach(f)",
        "db.t.find()\ndb.t.drop()",
        "db.t.find().map('x')",
        "db.t.find",
        "db.find()",
        "db[t].find()",
        "db['t'+'u'].find()",
        "db.getCollection(t).find()",
        "db.getSiblingDB(x).t.find()",
        "db.adminCommand({shutdown: 1})",
        "db.adminCommand({ping: 1, shutdown: 1})",
        "db.adminCommand({ping: 'x'})",
        "db.stats(f())",
        "rs.status(1)",
        "show dbs; db.t.drop()",
        "showdbs",
        "print(db.t.find(), db.t.drop())",
        "print('x')",
        "\x01",
        "db.t.find(\x02)",
        "db[\x01].find()",
    ],
)  # fmt: skip
def test_what_mongosh_may_run_is_held(text: str) -> None:
    assert base(MONGO, text) in {Base.OPAQUE, Base.R3}


@pytest.mark.parametrize(
    "text",
    [
        "db.t.find()",
        "db.t.find();",
        "db.t.find({})",
        "db.t.find(\n  {a: 1},\n  {b: 1},\n).limit(3)",
        "db.t.find({a: /^[a-z/]+\"$/i, 'b.c': \"d(e)\", f: ['g', 1.5, -2, 1e3, true, false, null]})",
        "db.t.find({a: {$gt: 24*60*60*1000}})",
        "db.t.find({at: {$gte: new Date(Date.now() - 7*24*60*60*1000)}})",
        "db.t.find({at: ISODate('2026-01-01T00:00:00Z'), id: ObjectId(\"a\"), n: NumberLong(5)})",
        "db.t.find({at: {$lt: new Date()}})",
        "db.t.find({0: 1, $or: [{a: 1}, {b: []}, {}]})",
        "db.t.aggregate([{$match: {a: 1}}, {$group: {_id: '$b', n: {$sum: 1}}}]).toArray().length",
        "db.t.distinct('a', {b: 1})",
        "db.t.aggregate([{$replaceRoot: {newRoot: {$mergeObjects: ['$a', '$b']}}}])",
        "db['a-b'].countDocuments({})",
        'db["a"].b.find()',
        "db.getCollection('a.b').find({}, {x: 1}).sort({a: -1}).limit(3)",
        "db.getSiblingDB('shop').orders.find().explain('executionStats')",
        "db.getSiblingDB('shop').stats()",
        "db.getSiblingDB('shop').currentOp({active: true})",
        "db.getSiblingDB('admin').adminCommand({ping: 1})",
        'db.adminCommand({ "replSetGetStatus" : 1 })',
        "db.serverStatus().connections",
        "db.stats(1024)",
        "rs.status().members",
        "rs.conf()",
        "sh.status()",
        "show collections",
        "printjson(db.t.stats())",
        "JSON.stringify(rs.status())",
        "tojson( db.t.find() )",
    ],
)  # fmt: skip
def test_what_mongosh_only_reads_is_a_read(text: str) -> None:
    assert base(MONGO, text) is Base.R0
