"""The names that a Python program may use and still only read and print; `python_reads` says how it may use them.

The law that every table keeps: no object that an allowed program can hold, called in any way with any such objects,
does more than compute, read files that are open already, or print. So functions that open, list or run are not values:
they are named in `OPENING`, `LISTING` and `NEVER`, and may only be called where their arguments show.
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# May be passed around, called with anything, and be the name of a variable.
BUILTINS = _words(
    """abs all any ascii bin bool bytearray bytes callable chr complex dict divmod enumerate filter float format
    frozenset hash hex id int isinstance issubclass iter len list map max memoryview min next oct ord pow range
    repr reversed round set slice sorted str sum tuple zip print Ellipsis NotImplemented
    ArithmeticError AssertionError BaseException EOFError Exception FileNotFoundError IndexError IOError
    IsADirectoryError KeyError KeyboardInterrupt LookupError NotADirectoryError NotImplementedError OSError
    OverflowError PermissionError RecursionError RuntimeError StopIteration SystemExit TypeError ValueError
    ZeroDivisionError"""
)
# May only be caught: when one of these ends a program, Python imports the module, or reads the line of the file, that
# the exception was made to name.
CAUGHT = _words(
    """SyntaxError IndentationError ImportError ModuleNotFoundError NameError AttributeError UnicodeError
    UnicodeDecodeError UnicodeEncodeError xml.etree.ElementTree.ParseError"""
)
# Builtins with rules of their own, and those that do more; none of them may be the name of a variable.
NEVER = _words(
    """open type exit quit getattr setattr delattr hasattr eval exec execfile compile input raw_input breakpoint globals
    locals vars dir help object super property classmethod staticmethod license credits copyright reload file apply
    intern aiter anext unicode unichr long xrange basestring buffer cmp coerce"""
)

# Of each module: what may be passed around and called with anything. No state that others read later (`sys.modules`,
# `os.environ`), no function that takes a file's name, nothing that looks an attribute or a module up by its name.
MODULES: dict[str, frozenset[str]] = {
    "__future__": _words("annotations division print_function unicode_literals absolute_import"),
    "ast": _words(
        """literal_eval walk dump unparse get_docstring iter_child_nodes iter_fields get_source_segment AST Module
        FunctionDef AsyncFunctionDef ClassDef Return Assign AnnAssign For While If With Raise Try Import ImportFrom Expr
        Call Name Attribute Constant Dict List Tuple Set Lambda Subscript BinOp Compare arg keyword alias Str Num
        Assert ExceptHandler JoinedStr Yield Await Pass stmt expr"""
    ),
    "base64": _words(
        """b64encode b64decode standard_b64encode standard_b64decode urlsafe_b64encode urlsafe_b64decode b32encode
        b32decode b16encode b16decode b85encode b85decode a85encode a85decode encodebytes decodebytes"""
    ),
    "binascii": _words("hexlify unhexlify crc32 b2a_hex a2b_hex b2a_base64 a2b_base64 Error"),
    "bisect": _words("bisect bisect_left bisect_right insort insort_left insort_right"),
    "calendar": _words(
        "month monthrange monthcalendar isleap leapdays weekday timegm month_name month_abbr day_name day_abbr"
    ),
    "collections": _words("Counter OrderedDict defaultdict deque ChainMap"),
    "configparser": _words("ConfigParser RawConfigParser Error"),
    "csv": _words(
        """reader DictReader writer DictWriter QUOTE_ALL QUOTE_MINIMAL QUOTE_NONE QUOTE_NONNUMERIC excel excel_tab Error
        field_size_limit"""
    ),
    "datetime": _words("datetime date time timedelta timezone UTC"),
    "decimal": _words(
        "Decimal ROUND_HALF_UP ROUND_HALF_EVEN ROUND_DOWN ROUND_UP ROUND_CEILING ROUND_FLOOR InvalidOperation"
    ),
    "difflib": _words("unified_diff context_diff ndiff SequenceMatcher get_close_matches restore"),
    "fractions": _words("Fraction"),
    "functools": _words("reduce partial cmp_to_key"),
    "hashlib": _words(
        """md5 sha1 sha224 sha256 sha384 sha512 sha3_224 sha3_256 sha3_384 sha3_512 blake2b blake2s new pbkdf2_hmac
        algorithms_available algorithms_guaranteed"""
    ),
    "heapq": _words("heappush heappop heapify nlargest nsmallest heapreplace heappushpop merge"),
    "hmac": _words("new compare_digest"),
    "html": _words("escape unescape"),
    "importlib": frozenset(),
    "importlib.util": frozenset(),
    "importlib.metadata": _words("version PackageNotFoundError requires"),
    "io": _words("StringIO BytesIO"),
    "ipaddress": _words(
        "ip_address ip_network ip_interface IPv4Address IPv4Network IPv6Address IPv6Network summarize_address_range"
    ),
    "itertools": _words(
        """accumulate batched chain combinations combinations_with_replacement compress count cycle dropwhile
        filterfalse groupby islice pairwise permutations product repeat starmap takewhile tee zip_longest"""
    ),
    "json": _words("load loads dump dumps JSONDecodeError"),
    "keyword": _words("iskeyword kwlist"),
    "math": _words(
        """acos acosh asin asinh atan atan2 atanh ceil comb copysign cos cosh degrees dist e erf erfc exp expm1 fabs
        factorial floor fmod frexp fsum gamma gcd hypot inf isclose isfinite isinf isnan isqrt lcm ldexp lgamma log
        log10 log1p log2 modf nan perm pi pow prod radians remainder sin sinh sqrt tan tanh tau trunc"""
    ),
    "operator": _words("itemgetter add sub mul truediv floordiv mod neg eq ne lt le gt ge and_ or_ xor not_ contains"),
    "os": _words("getcwd sep linesep cpu_count name getpid curdir pardir"),
    "os.path": _words(
        """join basename dirname split splitext exists isfile isdir islink getsize getmtime getctime abspath normpath
        relpath realpath isabs commonpath commonprefix lexists expanduser sep"""
    ),
    "platform": _words("python_version python_version_tuple python_implementation python_compiler python_build"),
    "pprint": _words("pprint pformat pp"),
    "random": _words("random randint randrange choice choices sample shuffle uniform gauss seed"),
    "re": _words(
        """compile match fullmatch search findall finditer sub subn split escape I IGNORECASE M MULTILINE S DOTALL X
        VERBOSE A ASCII U UNICODE error"""
    ),
    "secrets": _words("token_hex token_urlsafe token_bytes choice randbelow"),
    "shlex": _words("quote split join"),
    "shutil": _words("which"),
    "site": _words("getsitepackages getusersitepackages"),
    "statistics": _words(
        """mean fmean median median_low median_high mode multimode stdev pstdev variance pvariance quantiles
        harmonic_mean geometric_mean StatisticsError"""
    ),
    "string": _words(
        """ascii_letters ascii_lowercase ascii_uppercase digits hexdigits octdigits punctuation printable whitespace
        capwords"""
    ),
    "struct": _words("pack unpack unpack_from calcsize iter_unpack error"),
    "sys": _words(
        """argv stdin stdout stderr exit version version_info platform executable prefix base_prefix maxsize byteorder
        getsizeof getdefaultencoding getfilesystemencoding getrecursionlimit implementation float_info int_info
        hexversion maxunicode builtin_module_names stdlib_module_names copyright"""
    ),
    "sysconfig": _words("get_path get_paths get_python_version get_platform"),
    "textwrap": _words("dedent indent fill wrap shorten"),
    "time": _words(
        "time time_ns strftime strptime gmtime localtime ctime asctime mktime perf_counter monotonic tzname timezone"
    ),
    "tomli": _words("load loads TOMLDecodeError"),
    "tomllib": _words("load loads TOMLDecodeError"),
    "traceback": _words("print_exc format_exc"),
    "unicodedata": _words(
        "name normalize category lookup numeric decimal digit east_asian_width combining bidirectional"
    ),
    "urllib": frozenset(),
    "urllib.parse": _words(
        """quote quote_plus unquote unquote_plus urlparse urlsplit urlunsplit urlunparse urlencode urljoin parse_qs
        parse_qsl"""
    ),
    "uuid": _words("uuid4 uuid5 uuid3 UUID NAMESPACE_DNS NAMESPACE_URL"),
    "xml": frozenset(),
    "xml.etree": frozenset(),
    "xml.etree.ElementTree": _words("fromstring tostring Element"),
    "yaml": _words("safe_load safe_load_all safe_dump safe_dump_all dump YAMLError"),
    "zlib": _words("compress decompress crc32 adler32"),
    "zoneinfo": _words("ZoneInfo"),
    "gzip": _words("compress decompress"),
    "glob": _words("escape"),
    "pathlib": frozenset(),
}
# Functions that may only be called, with arguments that `python_reads` knows; they are no values.
OPENING = _words("open io.open gzip.open")
PATHS = _words("pathlib.Path pathlib.PurePath pathlib.PurePosixPath pathlib.PosixPath")
LISTING = _words("os.listdir os.walk glob.glob glob.iglob")
LOADERS = _words("yaml.SafeLoader yaml.CSafeLoader yaml.BaseLoader")
TREES = "xml.etree.ElementTree.parse"
SPECIAL = (
    OPENING
    | PATHS
    | LISTING
    | LOADERS
    | CAUGHT
    | _words("type exit quit ast.parse yaml.load time.sleep sys.path importlib.util.find_spec")
    | {TREES}
)

# Attributes of objects: harmless on everything that a program may hold, and, but for those in `GUARDED`, as values too.
# No `open`, `unlink`, `rename`, `write_text` (paths), no `write` (trees of XML), no name that begins with `_`.
ATTRIBUTES = _words(
    # text and bytes
    """capitalize casefold center count decode encode endswith expandtabs find index isalnum isalpha isascii isdecimal
    isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip maketrans
    partition removeprefix removesuffix rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip
    swapcase title translate upper zfill hex fromhex tobytes"""
    # collections
    """ add append appendleft clear difference difference_update discard elements extend extendleft fromkeys get insert
    intersection intersection_update isdisjoint issubset issuperset items keys most_common move_to_end pop popitem
    popleft remove reverse rotate setdefault sort subtract symmetric_difference total union update values maxlen
    from_iterable new_child"""
    # numbers
    """ as_integer_ratio bit_count bit_length conjugate denominator from_bytes imag is_integer numerator real to_bytes
    quantize to_integral_value normalize as_tuple sqrt is_nan limit_denominator"""
    # dates
    """ astimezone combine ctime date day days dst fold fromisocalendar fromisoformat fromordinal fromtimestamp hour
    isocalendar isoformat isoweekday microsecond microseconds minute month now second seconds strftime strptime time
    timestamp timetuple timetz today toordinal total_seconds tzinfo tzname utc utcfromtimestamp utcnow utcoffset
    utctimetuple weekday year max min resolution tm_year tm_mon tm_mday tm_hour tm_min tm_sec tm_wday tm_yday
    tm_isdst"""
    # expressions and their matches
    """ match fullmatch search findall finditer sub subn group groups groupdict start end span expand pattern flags
    lastgroup lastindex string pos endpos"""
    # files that are open, and the standard ones
    """ readline readlines buffer encoding closed close flush seek tell getvalue isatty reconfigure"""
    # paths: what they say of themselves and of what is there
    """ exists is_file is_dir is_symlink stat st_size st_mtime st_mode name stem suffix suffixes parent parents parts
    as_posix joinpath with_suffix with_name is_absolute relative_to is_relative_to"""
    # what modules return
    """ digest hexdigest block_size digest_size ratio quick_ratio get_matching_blocks get_opcodes fieldnames line_num
    writerow writerows writeheader sections options has_section has_option getint getfloat getboolean read_string
    read_file defaults scheme netloc path params query fragment hostname port username password geturl
    network_address broadcast_address netmask prefixlen num_addresses hosts subnets is_private is_global is_loopback
    version subnet_of supernet_of overlaps with_prefixlen compressed exploded origin int urn bytes fields variant
    key major minor micro releaselevel serial cache_tag getroot iterfind tag text tail attrib iter findtext itertext
    msg lineno colno doc args errno strerror filename reason code"""
    # trees of syntax
    """ body id func attr targets target value elts keywords arg names module level asname annotation returns
    decorator_list bases ctx left right op ops comparators test orelse handlers iter_child_nodes kwonlyargs vararg kwarg
    col_offset end_lineno end_col_offset s n"""
)
# Attributes that may only be called, each in the way that `python_reads` knows.
GUARDED = _words("replace copy read write format read_text read_bytes open glob rglob iterdir expanduser writelines")
# Of a tree of XML that a call has just read: trees can be written, so nothing may hold one.
TREE = _words("getroot iter find findall findtext iterfind")
DATE_FIELDS = _words("year month day hour minute second microsecond tzinfo fold")
MODES = _words("r rb rt br tr")
