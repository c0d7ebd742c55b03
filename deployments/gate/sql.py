r"""What a statement for a database client is worth: reads are proved node by node, everything else is held.

sqlglot reads the statement in the client's dialect; R0 needs every node of the whole tree to be on the lists here, for
a `WITH` can hold a DELETE and a SELECT can lock, write a file or kill a server through a function. What sqlglot does
not model (`SHOW`, `PRAGMA`, client commands such as `\\d`) is matched as a whole line or held. Where engines and
their clients read comments, backslashes, dollars or lines differently from sqlglot, the text is held before it is
parsed. What mongosh is given is JavaScript: a chain of calls that read, whose arguments are data.
"""

import logging
import re
from functools import lru_cache

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from deployments.gate.tables import Base

# It warns of every statement that it keeps as text; those are held here.
logging.getLogger("sqlglot").setLevel(logging.ERROR)

MAX_CHARACTERS = 10_000
MAX_MONGO = 2_000
MAX_NODES = 2_000
_DIALECTS = {
    "sql-postgres": "postgres",
    "sql-mysql": "mysql",
    "sql-sqlite": "sqlite",
    "sql-clickhouse": "clickhouse",
    "sql-duckdb": "duckdb",
    "sql-bigquery": "bigquery",
}
ROLES = frozenset({*_DIALECTS, "mongosh"})


def _set(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


_ROOTS = (exp.Select, exp.Union, exp.Except, exp.Intersect, exp.Subquery, exp.Values)
_STRUCTURE = _set(
    "Select From Where Table TableAlias Column Identifier Star Literal Alias Aliases And Or Xor Not EQ NullSafeEQ NEQ",
    "NullSafeNEQ GT GTE LT LTE Like ILike In Between Is Null Boolean Paren Neg Add Sub Mul Div Mod IntDiv DPipe",
    "Group Having Order Ordered Limit Offset Fetch Join With CTE Subquery Union Except Intersect Distinct Case If Cast",
    "TryCast DataType DataTypeParam Interval Var Window WindowSpec Exists Tuple Array Bracket Lateral Unnest Filter",
    "WithinGroup Any All Values Qualify RegexpLike RegexpILike SimilarTo Escape AtTimeZone Dot Collate Rollup Cube",
    "GroupingSets TableSample BitwiseAnd BitwiseOr BitwiseXor BitwiseNot Overlaps Slice",
    "SessionParameter Final PreWhere",
    "JSONExtract JSONExtractScalar JSONBExtract JSONBExtractScalar JSONPath JSONPathRoot JSONPathKey JSONPathSubscript",
    "JSONBContains JSONExtractArray ArrayContainsAll",
    "ArrayContainedBy JSONBContainsTopKey JSONBContainsAnyTopKeys JSONBContainsAllTopKeys",
    # `f(a -> b)`: in a function an arrow is read so
    "ObjectIdentifier LimitOptions Struct Lambda",
)
_FUNCTIONS = _set(
    "Count CountIf Sum Avg Min Max Stddev StddevPop StddevSamp Variance VariancePop",
    "Median Mode PercentileCont PercentileDisc",
    "Quantile ApproxDistinct ApproxQuantile GroupConcat ArrayAgg ArrayConcatAgg JSONObjectAgg JSONArrayAgg",
    "AnyValue First Last ArgMax ArgMin Corr CovarPop CovarSamp LogicalAnd LogicalOr",
    "RowNumber Rank DenseRank PercentRank CumeDist Ntile Lag Lead FirstValue LastValue NthValue",
    "Coalesce Nullif Greatest Least Abs Ceil Floor Round Trunc Sqrt Pow Exp Ln Log Sign",
    "Lower Upper Length Substring SubstringIndex Trim Concat ConcatWs Replace Split SplitPart",
    "StrPosition Left Right Initcap",
    "Reverse RegexpReplace RegexpExtract RegexpSplit StartsWith EndsWith Chr Ascii MD5 SHA SHA2",
    "Hex ToChar ToNumber Format",
    "CurrentDate CurrentTime CurrentTimestamp CurrentDatetime CurrentUser CurrentSchema CurrentDatabase CurrentVersion",
    "SessionUser Version Date DateAdd DateSub DateDiff DateTrunc DatetimeTrunc",
    "DatetimeDiff TimestampTrunc TimestampDiff",
    "TimestampAdd TimestampSub TsOrDsAdd TsOrDsDiff TsOrDsToDate TsOrDsToTimestamp Extract Year Month",
    "Day DayOfWeek DayOfMonth",
    "DayOfYear Week Hour Minute Second Quarter LastDay UnixToTime TimeToUnix StrToTime",
    "StrToDate StrToUnix TimeToStr DateToDi",
    "TimestampFromParts DateFromParts UnixSeconds UnixMillis TimeStrToTime",
    "ArraySize ArrayContains ArrayToString Explode GenerateSeries ExplodingGenerateSeries Encode GenerateDateArray",
    "ParseJSON JSONFormat JSONValue MapKeys Pi Rand Uuid Typeof Hll",
)
# Functions that sqlglot has no class for. Only readers of the catalogue, of sizes and of settings.
_NAMED = _set(
    "now version age clock_timestamp statement_timestamp current_database",
    "current_schema current_setting pg_size_pretty",
    "pg_database_size pg_relation_size pg_total_relation_size pg_table_size pg_indexes_size pg_is_in_recovery",
    "pg_last_wal_receive_lsn pg_last_wal_replay_lsn pg_last_xact_replay_timestamp pg_current_wal_lsn pg_wal_lsn_diff",
    "pg_get_viewdef pg_get_indexdef pg_get_constraintdef pg_get_functiondef pg_get_userbyid pg_postmaster_start_time",
    "pg_blocking_pids pg_backend_pid pg_encoding_to_char pg_column_size obj_description col_description format_type",
    "has_table_privilege to_regclass quote_ident date_part to_char to_timestamp jsonb_array_elements jsonb_object_keys",
    "jsonb_array_length jsonb_typeof json_array_length row_to_json to_json to_jsonb",
    "jsonb_path_query jsonb_path_query_array jsonb_path_query_first jsonb_path_exists jsonb_each jsonb_each_text",
    "jsonb_array_elements_text jsonb_extract_path jsonb_extract_path_text jsonb_strip_nulls json_array_elements",
    "json_array_elements_text json_each_text json_object_keys json_typeof json_extract_path_text",
    "array_length unnest generate_series",
    "cardinality jsonb_pretty jsonb_build_object json_build_object regexp_matches left right",
    "lpad rpad btrim ltrim rtrim inet_server_addr inet_client_addr",
    "database user connection_id found_rows schema last_insert_id from_unixtime unix_timestamp ifnull isnull format",
    "date_format time_format timestampdiff datediff json_extract json_unquote json_valid sec_to_time time_to_sec",
    "sqlite_version strftime datetime date time julianday typeof group_concat total changes printf instr hex quote",
    "json_each json_tree pragma_table_info pragma_index_list pragma_foreign_key_list",
    "formatreadablesize formatreadablequantity formatreadabletimedelta hostname uptime currentdatabase toyyyymm todate",
    "todatetime tostartofhour tostartofday tostartofminute tostartofinterval today yesterday countif sumif avgif uniq",
    "uniqexact quantile topk grouparray any anylast argmax argmin tostring touint64 toint64 tofloat64",
    "duckdb_tables duckdb_columns duckdb_settings duckdb_databases pragma_database_list date_trunc safe_divide",
)
_SENSITIVE = re.compile(
    r"pg_(shadow|authid|user_mappings?|hba_file_rules|subscription$)|passw(or)?d|passwd|secret|credential|api_?key|access_?key|private_?key"
    r"|auth_?token|access_?token|refresh_?token|session_?token|authentication_string|tokens?$|ssn$|credit_?card|mysql\.(user|servers)"
    r"|global_priv|password_hash|salt$|conninfo|slave_master_info",
    re.I,
)
# Tables that only the sqlite3 program has, and that are files: `select data from fsdir where path = '/etc/passwd'`.
_FILES = frozenset({"fsdir", "zipfile"})
_LOOKING_UP = re.compile(r"jsonb?_?(extract|path|value|query)")
_KEYS = re.compile(r"[A-Za-z0-9_]+")  # of a path into a document
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_$ -]{0,127}")
_PROJECT = re.compile(r"[A-Za-z_][A-Za-z0-9_$ .*:-]{0,255}")
# A path of JSON in double quotes, which is text to SQLite as long as no column has that name.
_SQLITE = re.compile(rf"{_IDENTIFIER.pattern}|\$[A-Za-z0-9_.\[\]]*")
_COMMENTS = re.compile(r"/\*[!+M]|--(?=\S)|\$[A-Za-z0-9_]*\$")
_QUOTES = re.compile(r"['\"`\\#]|--|/\*|\[|\$[A-Za-z0-9_]+\$")
_DOLLARS = re.compile(r"(?<![A-Za-z0-9_$])\$\$([^$]*)\$\$(?![A-Za-z0-9_$])")
_PLAIN_STRING = re.compile(r"'[^'\"\\`]*'")
# What sqlite3 and duckdb may take for a command of their own, or for the end of a statement, at the start of a line.
_SQLITE_LINES = re.compile(r"(?im)^\s*(\.(?![0-9])|(/|go)[\s;]*$)")
_DOUBLE_LIKE = re.compile(r"(?i)show\s[a-z\s]+\slike\s+\"[A-Za-z0-9_%. -]*\"")
_MYSQL_COMMANDS = re.compile(
    r"(?im)^\s*(source|system|tee|notee|pager|nopager|edit|connect|delimiter|use|print|prompt|rehash|charset|clear|exit|quit"
    r"|resetconnection|ssl_session_data_print|query_attributes)\b"
    r"|\bdelimiter\s"  # some versions obey it wherever it stands
)
_DESTRUCTIVE = re.compile(
    r"(?is)\b(drop|truncate|alter|grant|revoke|shutdown|reassign|kill|detach|attach|vacuum|cluster|reset|purge|install|load"
    r"|(create|alter)\s+(or\s+replace\s+)?(role|user|extension|server|function|procedure|trigger|rule|policy|language|event)"
    r"|copy|program|outfile|dumpfile|infile|pg_terminate_backend|pg_cancel_backend|pg_read_\w+|pg_ls_\w+|pg_write\w*|lo_\w+"
    r"|dblink\w*|set_config|pg_reload_conf|pg_\w*(reset|switch|promote|drop|create|import|rotate)\w*|load_extension|writefile"
    r"|readfile|edit|load_file|sys_exec|sys_eval|xp_cmdshell|into\s+\w+|do|call|execute|exec|set\s+(global|persist|session\s+auth))\b"
)
_ROWS = re.compile(r"(?i)\b(delete\s+from|update\s+[\w.\"`]+\s+set)\b")
_EXPLAIN = re.compile(
    r"(?is)explain\s+((\(\s*((format\s+(text|json|xml|yaml)|(costs|verbose|summary|settings)(\s+(on|off|true|false))?)\s*,?\s*)+\))"
    r"|verbose(?!\w)|format\s*=\s*(json|tree|traditional)|query\s+plan)?\s*(?P<rest>(select|with|\().*)"
)
_NAME = r"[`\"A-Za-z_][A-Za-z0-9_.`\"$-]*"
_TABLE = r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?|\"[A-Za-z_][A-Za-z0-9_$-]*\""  # `"x.csv"` is a file
_LIKE = r"(\s+(like|ilike)\s+'[A-Za-z0-9_%. -]*')?"
_LINES = {
    "sql-postgres": re.compile(
        rf"(?i)show\s+(all|[a-z_]+(\.[a-z_]+)?|transaction\s+isolation\s+level|time\s+zone)|table\s+{_NAME}"
        rf"|show\s+(tables|databases|schemas|columns|indexes|index|ranges|jobs|statements|sessions|queries|create(\s+table)?|grants)"
        rf"(\s+(from|on)(\s+(table|database))?)?(\s+{_NAME})?"
    ),
    "sql-mysql": re.compile(
        rf"(?i)show\s+(full\s+|global\s+|session\s+|extended\s+|open\s+)*(tables|databases|schemas|columns|fields|index|indexes|keys"
        rf"|table\s+status|status|variables|processlist|engines|storage\s+engines|plugins|warnings|errors|events|triggers"
        rf"|privileges|collation|character\s+set|(master|slave|replica|binary\s+log)\s+status|(binary|master)\s+logs|replicas"
        rf"|slave\s+hosts|engine\s+innodb\s+status|(procedure|function)\s+status)((\s+(from|in)\s+{_NAME})*){_LIKE}"
        rf"|show\s+create\s+(table|database|view|procedure|function|trigger|event)\s+{_NAME}|show\s+grants"
        rf"|show\s+(global\s+|session\s+)?(status|variables)\s+where\s+variable_name\s*((=|like)\s*'[A-Za-z0-9_%]*'"
        r"|in\s*\(\s*'[A-Za-z0-9_]*'(\s*,\s*'[A-Za-z0-9_]*')*\s*\))"
        rf"|(desc|describe|explain)\s+{_NAME}|status"
    ),
    "sql-sqlite": re.compile(
        rf"(?i)pragma\s+((main|temp)\.)?(table_info|table_xinfo|table_list|index_list|index_info|index_xinfo|foreign_key_list"
        rf"|foreign_key_check|integrity_check|quick_check)(\s*\(\s*'?{_NAME}'?\s*\))?"
        r"|pragma\s+((main|temp)\.)?(database_list|collation_list|function_list|compile_options|user_version|schema_version"
        r"|application_id|page_count|page_size|freelist_count|journal_mode|synchronous|foreign_keys|encoding|auto_vacuum"
        r"|cache_size|busy_timeout|data_version)"
        rf"|\.(tables?|schema|indexes|indices|fullschema|dbinfo)(\s+[A-Za-z0-9_%.*-]+)?|\.(databases|show|version|dump(\s+{_NAME})?)"
        r"|\.headers?\s+(on|off)|\.mode\s+(csv|column|json|line|list|table|markdown|box|tabs|html|insert|quote)"
    ),
    "sql-clickhouse": re.compile(
        rf"(?i)show\s+(tables|databases|processlist|grants|settings|clusters|functions|dictionaries|engines|profiles)"
        rf"(\s+(from|in)\s+{_NAME})?{_LIKE}|show\s+create\s+(table|database|view|dictionary)\s+{_NAME}|(desc|describe)\s+(table\s+)?{_NAME}"
        rf"|exists\s+(table\s+)?{_NAME}"
    ),
    "sql-duckdb": re.compile(
        rf"(?i)show\s+(all\s+)?tables|show\s+databases|(desc|describe|show|summarize)\s+({_TABLE})|pragma\s+(version|show_tables"
        rf"|database_size|database_list|table_info\s*\(\s*'{_NAME}'\s*\))|\.(tables|schema|databases|indexes)(\s+[A-Za-z0-9_%]+)?"
        r"|\.mode\s+(csv|column|json|line|list|table|markdown|box|tabs|duckbox)|\.headers?\s+(on|off)"
    ),
    "sql-bigquery": re.compile(r"(?!)"),
}
# `\d...` only describes. No backquote, colon or backslash may follow: psql substitutes commands and variables there.
_PSQL = re.compile(
    r"\\((?!deu[A-Za-z]*\+)d[A-Za-z]*[S+x]*|l[+x]*|list\+?|z|conninfo|sf\+?|sv\+?|encoding|timing|copyright|h)"
    r"( [A-Za-z0-9_.*\"?]+)*|\\x( (on|off|auto))?|\\pset pager off"
)

# Strings and regular expressions of JavaScript, where a slash between brackets ends none.
_MONGO_WORDS = re.compile(r"\"[^\"\\\n]*\"|'[^'\\\n]*'|(?<=[:,(\[])\s*/(?!\*)([^/\[\\\n]|\[[^\]\\\n]*\])+/[a-z]*")
# They stand for what was read already.
_TEXT, _DATA = "\x01", "\x02"
_MONGO_CODE = re.compile(
    r"\$(where|function|accumulator|out|merge(?!Objects)|currentOp|listSessions|listLocalSessions|eval)"
)
_NUMBER = r"(?:Date\.now\(\)|-?[0-9]+(?:\.[0-9]+)?(?:e[0-9]+)?)"
_MONGO_ATOM = rf"(?:{_TEXT}|{_DATA}|{_NUMBER}(?:[-+*/]{_NUMBER})*|true|false|null|undefined)"
_MONGO_LIST = rf"(?:{_MONGO_ATOM}(?:,{_MONGO_ATOM})*,?)?"
_MONGO_PAIR = rf"(?:{_TEXT}|\$?[A-Za-z_][A-Za-z0-9_]*|[0-9]+):{_MONGO_ATOM}"
_MONGO_DATA = re.compile(
    rf"\{{(?:{_MONGO_PAIR}(?:,{_MONGO_PAIR})*,?)?\}}|(?<![A-Za-z0-9_)\]{_TEXT}{_DATA}])\[{_MONGO_LIST}\]"
    rf"|(?<![A-Za-z0-9_.])(?:new)?(?:ObjectId|ISODate|NumberLong|NumberInt|NumberDecimal|Date|UUID)\({_MONGO_ATOM}?\)"
)
# A string alone is code to the old shell: `db.t.find("this.a > 1")`.
_MONGO_READ = (
    rf"(?:(?:find|findOne|countDocuments|count|aggregate)\((?!{_TEXT}){_MONGO_LIST}\)"
    r"|(?:estimatedDocumentCount|distinct|getIndexes|stats|dataSize|storageSize|totalSize|totalIndexSize|isCapped"
    rf"|latencyStats)\({_MONGO_LIST}\))"
)
_MONGO_CHAIN = (
    r"(?:\.(?:limit|skip|sort|pretty|count|toArray|explain|projection|hint|size|itcount|maxTimeMS|batchSize)"
    rf"\({_MONGO_LIST}\))*(?:\.length)?"
)
_MONGO_FIELDS = r"(?:\.[A-Za-z_][A-Za-z0-9_]*)*"
_MONGO_TARGET = rf"db(?:\.getSiblingDB\({_TEXT}\))?"
_MONGO = re.compile(
    rf"{_MONGO_TARGET}(?:(?:\.[A-Za-z_][A-Za-z0-9_]*|\.getCollection\({_TEXT}\)|\[{_TEXT}\])+?"
    rf"\.{_MONGO_READ}{_MONGO_CHAIN}"
    r"|\.(?:stats|version|serverStatus|getCollectionNames|getCollectionInfos|hostInfo|currentOp|getName"
    r"|getProfilingStatus|hello|isMaster|serverBuildInfo|getReplicationInfo|printReplicationInfo"
    rf"|printSecondaryReplicationInfo)\([0-9]*\){_MONGO_FIELDS}"
    rf"|\.currentOp\({_MONGO_LIST}\))"
    rf"|rs\.(?:status|conf|hello|printReplicationInfo|printSecondaryReplicationInfo)\(\){_MONGO_FIELDS}|sh\.status\(\)"
)
_MONGO_ADMIN = re.compile(
    r"db(\.getSiblingDB\(([\"'])[A-Za-z0-9_-]+\2\))?\.adminCommand\(\s*\{\s*([\"']?)(ping|listDatabases|serverStatus"
    r"|replSetGetStatus|buildInfo|hello)\3\s*:\s*1\s*\}\s*\)"
    r"|show (dbs|databases|collections|tables|users|roles|profile|logs)"
)
_MONGO_WRAPPED = re.compile(r"(?:printjson|print|JSON\.stringify|EJSON\.stringify|tojson)\((?P<inner>.*)\)", re.S)
_MONGO_DESTRUCTIVE = re.compile(
    r"drop|delete|remove|shutdown|createUser|updateUser|grant|revoke|\$out|\$merge|\$where|\$function|eval|load\(|require|process"
    r"|fsyncLock|stepDown|reconfig|renameCollection|setFeature|killOp|bulkWrite|compact|truncate|spawn|import"
)


@lru_cache(maxsize=1024)
def judge(role: str, text: str) -> tuple[Base, str]:
    """The base class of what the client is told, and why."""
    if len(text) > MAX_CHARACTERS or not text.strip():
        return Base.OPAQUE, "no statement, or one that is too long"
    found = _mongo(text.strip()) if role == "mongosh" else _sql(role, text.strip())
    if found is not None:
        return found
    if (_MONGO_DESTRUCTIVE if role == "mongosh" else _DESTRUCTIVE).search(text):
        return Base.R3, "a statement that destroys, reconfigures, runs code or leaves the database"
    if role != "mongosh" and _ROWS.search(text) and not re.search(r"(?i)\bwhere\b", text):
        return Base.R3, "changes or deletes every row"
    return Base.OPAQUE, "a statement that is not known to read only"


def _sql(role: str, text: str) -> tuple[Base, str] | None:
    if role == "sql-postgres" and text.startswith("\\"):
        return (Base.R0, "") if _PSQL.fullmatch(text) else (Base.R3, "a client command that is not a description")
    if role == "sql-mysql":
        text = re.sub(r"\s*\\[Gg]\s*;?\s*$", "", text)
        if "#" in text or "\\" in text or _MYSQL_COMMANDS.search(text):
            return None
    if role in {"sql-clickhouse", "sql-bigquery"} and "\\" in text:
        return None
    if "\\" in text and re.search(r"(?i)\b(e|u&)'", text):
        return None
    if role in {"sql-sqlite", "sql-duckdb"} and "\n" in text and _SQLITE_LINES.search(text):
        return None
    if role == "sql-postgres":
        text = _undollared(text)
    if role == "sql-mysql" and _DOUBLE_LIKE.fullmatch(text.rstrip("; \n\t")):
        text = text.replace('"', "'")
    if _COMMENTS.search(text) or text.count("/*") > 1:
        return None
    line = text.rstrip("; \n\t")
    if ";" in line and not _QUOTES.search(line):
        several = [_sql(role, part.strip()) for part in line.split(";")]
        found = max((one for one in several if one is not None), key=_rank, default=None)
        return found if None not in several or (found is not None and found[0] is Base.R3) else None
    if _LINES[role].fullmatch(line):
        return _names(line)
    explained = _EXPLAIN.fullmatch(line)
    if explained is not None:
        return _sql(role, explained["rest"])
    try:
        statements = [found for found in sqlglot.parse(text, dialect=_DIALECTS[role]) if found is not None]
    except (SqlglotError, RecursionError, ValueError):
        return None
    statements = [each for each in statements if not isinstance(each, exp.Semicolon)]
    if not statements:
        return None
    found = [_statement(role, each) for each in statements]
    proved = [each for each in found if each is not None]
    if len(proved) == len(found):
        return max(proved, key=_rank)
    return next((written for each in statements if (written := _written(each)) is not None), None)


def _rank(found: tuple[Base, str]) -> int:
    return (Base.R0, Base.R1, Base.R3).index(found[0])


def _undollared(text: str) -> str:
    """`$$...$$` as plain strings, where it is sure which pairs quote: nothing in one may end another string."""
    if _QUOTES.search(_DOLLARS.sub("", _PLAIN_STRING.sub("", text))):
        return text
    if any(set(found) & set("'\"`\\") for found in _DOLLARS.findall(text)):
        return text
    return _DOLLARS.sub(r"'\1'", text)


def _statement(role: str, statement: exp.Expr) -> tuple[Base, str] | None:
    """R0 for a read, R1 for a read of credentials, None for anything that is not proved."""
    if not isinstance(statement, _ROOTS):
        return None
    sensitive = False
    for count, node in enumerate(statement.walk()):
        if count > MAX_NODES or not _is_known(role, node):
            return None
        sensitive = sensitive or _shows_credentials(node)
    return (Base.R1, "reads what looks like credentials") if sensitive else (Base.R0, "")


def _shows_credentials(node: exp.Expr) -> bool:
    """True for the name of a table or column, of a setting, or in a document, that looks like credentials."""
    match node:
        case exp.Table():
            return _SENSITIVE.search(f"{node.db}.{node.name}") is not None
        case exp.Identifier():
            return _SENSITIVE.search(node.name) is not None
        case exp.JSONPathKey():
            return any(_SENSITIVE.search(key) for key in _KEYS.findall(str(node.this)))
        case exp.Literal():
            if "conninfo" in node.name.lower():  # a setting with a password, wherever it is asked for
                return True
            return _looks_up(node.parent) and any(_SENSITIVE.search(key) for key in _KEYS.findall(node.name))
        case _:
            return False


def _looks_up(node: exp.Expr | None) -> bool:
    """True for what looks a setting or a part of a document up, by the words that it is given."""
    named = (str(node.this) if isinstance(node, exp.Anonymous) else type(node).__name__).lower()
    return isinstance(node, exp.Bracket) or named == "current_setting" or _LOOKING_UP.match(named) is not None


def _is_known(role: str, node: exp.Expr) -> bool:
    name = type(node).__name__
    if isinstance(node, exp.Func) and isinstance(node.parent, exp.Dot):
        return False  # a function of some schema, whatever it is called
    if isinstance(node, exp.Anonymous):
        return isinstance(node.this, str) and node.this.lower() in _NAMED
    if isinstance(node, exp.Identifier):
        pattern = {"sql-bigquery": _PROJECT, "sql-sqlite": _SQLITE}.get(role, _IDENTIFIER)
        return pattern.fullmatch(str(node.this)) is not None
    if isinstance(node, exp.Table) and not isinstance(node.this, exp.Identifier):
        # A function that gives rows: known by its name as long as it is not one of some schema.
        return isinstance(node.this, exp.Func) and not node.db
    if isinstance(node, exp.Table) and role == "sql-sqlite" and node.name.lower() in _FILES:
        return False
    return name in _STRUCTURE or name in _FUNCTIONS


def _names(line: str) -> tuple[Base, str]:
    return (Base.R1, "reads what looks like credentials") if _SENSITIVE.search(line) else (Base.R0, "")


def _written(statement: exp.Expr) -> tuple[Base, str] | None:
    """The class of the writes that are plainly what they are; None leaves it to the words of the text."""
    if any(node.args.get("where") is None for node in statement.find_all(exp.Delete, exp.Update)):
        return Base.R3, "changes or deletes every row"
    return None


def _mongo(text: str) -> tuple[Base, str] | None:
    text = text.rstrip("; \n")
    if len(text) > MAX_MONGO:
        return None
    wrapped = _MONGO_WRAPPED.fullmatch(text)
    if wrapped is not None:
        text = wrapped["inner"].strip()
    if not _MONGO_ADMIN.fullmatch(text) and not _MONGO.fullmatch(_as_data(text)):
        return None
    if _MONGO_CODE.search(text):
        return None
    return (
        (Base.R1, "reads what looks like credentials")
        if re.search(r"(?i)system\.users|passw|secret|token|credential|api_?key|private_?key", text)
        else (Base.R0, "")
    )


def _as_data(text: str) -> str:
    """JavaScript without blanks, each string as `_TEXT`, each object, list and date that is data alone as `_DATA`."""
    if _TEXT in text or _DATA in text:
        return ""
    # Two words that blanks kept apart are no JavaScript, but for `new Date`.
    text = re.sub(r"\s+", "", _MONGO_WORDS.sub(_TEXT, text))
    before = ""
    while text != before:
        before, text = text, _MONGO_DATA.sub(_DATA, text)
    return text
