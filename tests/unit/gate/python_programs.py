"""Python programs as they stand in command lines: what only reads and prints, and what does more."""

READS = r"""
import json; print(json.load(open('package.json'))['version'])
import json; print(json.load(open("package.json"))["scripts"])
import json,sys; print(json.load(sys.stdin)['name'])
import sys,json; d=json.load(sys.stdin); print(len(d['items']))
import sys, json; print(json.dumps(json.load(sys.stdin), indent=2))
import json,sys; [print(x['name']) for x in json.load(sys.stdin)]
import json,sys; print('\n'.join(i['metadata']['name'] for i in json.load(sys.stdin)['items']))
import sys,json; print(json.loads(sys.stdin.read()).get('status', 'unknown'))
import json; d=json.load(open('data.json')); print(type(d).__name__, len(d))
import json; d=json.load(open('data.json')); print(d.keys() if isinstance(d, dict) else d[:2])
import json; print(sorted(json.load(open('data.json')), key=lambda x: x['n'])[-1])
import json; from collections import Counter; print(Counter(x['kind'] for x in json.load(open('data.json'))))
import json; print(sum(x.get('n', 0) for x in json.load(open('data.json'))))
import json; print(max(json.load(open('data.json')), key=lambda r: r['n']))
import json, sys; json.dump(json.load(open('data.json')), sys.stdout, indent=1, sort_keys=True)
import json; json.load(open('package.json')); print('ok')
import json; d = json.load(open('package.json')); print(d.get('dependencies', {}).items())
import json; a=json.load(open('data.json')); b=json.load(open('data.json')); print(a == b)
import json;print([l for l in map(json.loads, open('lines.jsonl')) if l['level']=='error'])
import json; print(sum(1 for _ in open('lines.jsonl')))
import csv; print(list(csv.DictReader(open('rows.csv')))[:2])
import csv; r=csv.reader(open('rows.csv', newline='')); print(next(r)); print(sum(1 for _ in r))
import csv,sys; w=csv.writer(sys.stdout); w.writerow(['a','b']); w.writerows([[1,2],[3,4]])
import csv,collections; print(collections.Counter(r['city'] for r in csv.DictReader(open('rows.csv'))))
import csv, statistics; print(statistics.mean(float(r['n']) for r in csv.DictReader(open('rows.csv'))))
import csv,io,sys; print(list(csv.reader(io.StringIO(sys.stdin.read()), delimiter='\t')))
import csv, json; print(json.dumps([dict(r) for r in csv.DictReader(open('rows.csv', encoding='utf-8'))]))
import yaml; print(yaml.safe_load(open('conf.yaml')))
import yaml; print(yaml.safe_load(open('conf.yaml'))['services'].keys())
import yaml,sys; list(yaml.safe_load_all(sys.stdin)); print('valid')
import yaml, json; print(json.dumps(yaml.safe_load(open('conf.yaml')), default=str))
import yaml; print(yaml.load(open('conf.yaml'), Loader=yaml.SafeLoader))
import yaml; print(yaml.load(open('conf.yaml'), yaml.SafeLoader))
import yaml; print(yaml.safe_dump({'a': [1, 2]}, sort_keys=False))
import yaml; print(yaml.dump({'a': 1}))
import tomllib; print(tomllib.load(open('pyproject.toml','rb'))['project']['version'])
import tomllib; d = tomllib.load(open('pyproject.toml', 'rb')); print(d['project'].get('dependencies', []))
import configparser; c=configparser.ConfigParser(); c.read('setup.cfg'); print(c.sections(), c['metadata']['name'])
import configparser; c = configparser.ConfigParser(); c.read_string('[a]\nb=1'); print(c.get('a', 'b'))
import xml.etree.ElementTree as ET; r=ET.parse('cov.xml').getroot(); print(r.attrib.get('line-rate'))
import xml.etree.ElementTree as ET; t=ET.parse('cov.xml'); print([e.tag for e in t.getroot().iter()])
import xml.etree.ElementTree as ET; print(ET.fromstring('<a><b>1</b></a>').find('b').text)
from xml.etree import ElementTree; print([c.get('name') for c in ElementTree.parse('cov.xml').findall('.//class')])
print(open('notes.txt').read())
print(open('notes.txt').read().count('\n'))
print(len(open('notes.txt').readlines()))
print(open('notes.txt', 'r', encoding='utf-8').read()[:200])
print(open('notes.txt','rb').read(64).hex())
print(repr(open('notes.txt', 'rb').read()))
print(''.join(open('notes.txt').readlines()[3:9]))
for i, line in enumerate(open('notes.txt'), 1): print(i, line.rstrip())
print(sorted(set(open('notes.txt').read().split())))
print(max(len(l) for l in open('notes.txt')))
print([l.strip() for l in open('notes.txt') if l.startswith('#')])
import sys; print(sys.version)
import sys; print(sys.version_info[:2])
import sys; print(sys.executable, sys.prefix)
import sys; print(sys.path)
import sys; print('\n'.join(sys.path))
import sys; print(*sys.path, sep='\n')
import sys; [print(p) for p in sys.path]
import sys; print(sys.platform, sys.maxsize, sys.byteorder)
import sys; print(sys.argv[1:])
import sys; print(sys.argv[1].upper() if len(sys.argv) > 1 else 'none')
import sys; sys.exit(0)
import sys; sys.stdout.write(sys.stdin.read().upper())
import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())
import sys; print('x', file=sys.stderr)
import sys; sys.stderr.write('done\n'); sys.stdout.flush()
import sys; print(sum(int(l) for l in sys.stdin if l.strip().isdigit()))
import sys; print(sum(map(len, sys.stdin)))
import sys; lines = sys.stdin.readlines(); print(lines[-1])
import sys; print(len(open(0).read()))
import platform; print(platform.python_version(), platform.python_implementation())
import site; print(site.getsitepackages())
import sysconfig; print(sysconfig.get_paths()['purelib'])
import shutil; print(shutil.which('python3'))
import importlib.util; print(importlib.util.find_spec('yaml') is not None)
from importlib.metadata import version; print(version('PyYAML'))
import math; print(math.sqrt(2), math.pi, math.ceil(7/3))
print(2**64)
print(hex(255), bin(10), oct(8), int('ff', 16))
print(1024*1024*1.5)
print(round(100*37/412, 2))
print('a' * 80)
print('%.2f %s' % (3.14159, 'x'))
print('{:>10} {:<5}|'.format('ab', 3))
print('{name} {0}'.format(1, name='n'))
x = 5; print(f'{x:>10} {x!r} {x:08b} {x:{x}}')
print(f"{1/3:.3f} {1000000:,}")
print(ord('a'), chr(8364), '\u20ac'.encode('utf-8'))
print('abc'[::-1], 'a,b'.split(','), ' x '.strip())
print('Hello World'.replace('o', '0').lower().title())
print(list(zip([1,2],[3,4])), dict(a=1), {1,2} | {3})
print(sum(range(101)))
print([i for i in range(2, 50) if all(i % j for j in range(2, i))])
print(any(x > 3 for x in [1, 2, 3]), all([True, False]))
from datetime import datetime; print(datetime.now().isoformat())
import datetime; print(datetime.datetime.utcfromtimestamp(1700000000))
import datetime as dt; print(dt.date.today() - dt.timedelta(days=7))
from datetime import datetime, timezone; print(datetime.fromtimestamp(1700000000, tz=timezone.utc).strftime('%Y-%m-%d'))
from datetime import datetime as D; print((D(2024,3,1) - D(2024,2,1)).days)
from datetime import datetime; print(datetime.strptime('2024-01-31', '%Y-%m-%d').weekday())
from datetime import datetime; print(datetime.now().replace(hour=0, minute=0, second=0, microsecond=0))
import time; print(int(time.time()))
import time; print(time.strftime('%Y-%m-%d', time.gmtime(0)))
import time; time.sleep(0); print('up')
from zoneinfo import ZoneInfo; from datetime import datetime; print(datetime(2024,1,1,tzinfo=ZoneInfo('UTC')))
import calendar; print(calendar.month(2024, 2), calendar.isleap(2024))
import base64; print(base64.b64decode('aGVsbG8=').decode())
import base64,sys; print(base64.b64encode(sys.stdin.buffer.read()).decode())
import base64, json; p='e30='; print(json.loads(base64.urlsafe_b64decode(p + '=' * (-len(p) % 4))))
import hashlib; print(hashlib.sha256(open('notes.txt','rb').read()).hexdigest())
import hashlib; h = hashlib.md5(); h.update(b'x'); print(h.hexdigest())
import zlib, binascii; print(zlib.crc32(b'abc'), binascii.hexlify(b'abc'))
import re; print(re.findall(r'\d+', open('notes.txt').read()))
import re,sys; print(re.sub(r'\s+', ' ', sys.stdin.read()))
import re; m = re.search(r'v(\d+)\.(\d+)', 'v1.22'); print(m.group(1), m.groups(), m.start())
import re; p = re.compile('a+', re.I | re.M); print([x.span() for x in p.finditer('aab AA')])
import re; print(re.sub('[a-z]+', lambda m: m.group(0).upper(), 'ab 1'))
import re; print(bool(re.fullmatch(r'[\w.]+@[\w.]+', 'a@b.c')), re.escape('a.b'))
import re, collections; print(collections.Counter(re.findall(r'\w+', open('notes.txt').read().lower())).most_common(5))
import urllib.parse; print(urllib.parse.quote('a b&c'), urllib.parse.unquote('a%20b'))
from urllib.parse import urlparse; u = urlparse('https://h.example:8443/p?q=1'); print(u.netloc, u.port, u.path)
import urllib.parse as p, sys; print(p.parse_qs('a=1&b=2'), p.urlencode({'x': 'y z'}))
import html; print(html.unescape('&lt;a&gt;'), html.escape('<'))
import uuid; print(uuid.uuid4())
import secrets; print(secrets.token_hex(16))
import random; print(random.randint(1, 6), random.choice('abc'))
import string; print(string.ascii_lowercase + string.digits)
import textwrap; print(textwrap.fill('a b c ' * 30, 40))
import unicodedata; print([unicodedata.name(c) for c in 'aé'], unicodedata.normalize('NFC', 'e'))
import difflib; print('\n'.join(difflib.unified_diff(['a','b'], ['a','c'], 'x', 'y', lineterm='')))
import difflib; print(difflib.SequenceMatcher(None, 'abc', 'abd').ratio())
import statistics as s; d=[1,2,3,4]; print(s.mean(d), s.median(d), s.stdev(d))
from decimal import Decimal; print(Decimal('0.1') + Decimal('0.2'))
from fractions import Fraction; print(Fraction(3, 9).limit_denominator())
import itertools; print(list(itertools.chain.from_iterable([[1], [2]])), list(itertools.islice(itertools.count(), 3)))
from itertools import groupby; print({k: len(list(g)) for k, g in groupby('aabb')})
import functools, operator; print(functools.reduce(operator.add, [1]), sorted(['b', 'a'], key=operator.itemgetter(0)))
from collections import defaultdict; d=defaultdict(list); d['a'].append(1); print(dict(d))
import collections; q = collections.deque([1,2], maxlen=2); q.append(3); print(q)
import struct; print(struct.unpack('<I', b'\x01\x00\x00\x00'), struct.pack('>H', 1))
import ipaddress; n=ipaddress.ip_network('10.0.0.0/30'); print(n.num_addresses, [str(h) for h in n.hosts()])
import shlex; print(shlex.split('a "b c"'), shlex.quote("it's"))
import heapq, bisect; print(heapq.nlargest(2, [3,1,2]), bisect.bisect([1,2,3], 2))
import pprint, json; pprint.pprint(json.load(open('data.json')))
from pprint import pprint; pprint({'a': 1})
import ast; ast.parse(open('mod.py').read()); print('syntax ok')
import ast; print([n.name for n in ast.walk(ast.parse(open('mod.py').read())) if isinstance(n, ast.FunctionDef)])
import ast; print(ast.literal_eval("{'a': [1, 2]}"))
import ast; ast.parse(open('mod.py').read(), 'mod.py')
import ast,sys; print([n.module for n in ast.walk(ast.parse(open(0).read())) if isinstance(n, ast.ImportFrom)])
import os; print(os.getcwd(), os.sep, os.cpu_count())
import os; print(sorted(os.listdir('sub')))
import os; print(len(os.listdir()))
import os; print(os.path.exists('notes.txt'), os.path.getsize('notes.txt'), os.path.isdir('sub'))
import os; print(os.path.join('a', 'b'), os.path.basename('/x/y.z'), os.path.splitext('a.tar.gz'))
from os.path import join, exists; print(exists(join('sub', 'a.json')))
import os; print(sum(len(f) for _, _, f in os.walk('sub')))
import glob; print(glob.glob('sub/*.json'))
import glob, json; print([json.load(open(f)) for f in sorted(glob.glob('sub/*.json'))])
from glob import glob; print(len(glob('**/*.py', recursive=True)))
from pathlib import Path; print(Path('notes.txt').read_text())
from pathlib import Path; print(len(Path('notes.txt').read_text(encoding='utf-8').splitlines()))
import pathlib; print(pathlib.Path('sub/a.json').exists(), pathlib.Path('a/b.c').suffix)
from pathlib import Path; print([p.name for p in Path('sub').glob('*.json')])
from pathlib import Path; print(sum(p.stat().st_size for p in Path('.').rglob('*.py')))
from pathlib import Path; p = Path('sub') / 'a.json'; print(p.read_text(), p.parent, p.stem)
from pathlib import Path; [print(p, len(p.read_text().split())) for p in sorted(Path('sub').glob('*.txt'))]
from pathlib import Path; import json; print(json.loads((Path('sub') / 'a.json').read_text()))
from pathlib import Path; print(sorted(x.as_posix() for x in Path('sub').iterdir()))
import gzip; print(gzip.open('log.gz', 'rt').read())
import json; print({f: len(json.load(open(f))) for f in ['data.json', 'package.json']})
import json; [print(n, len(open(n).read())) for n in ('data.json', 'notes.txt')]
p = 'notes.txt'; print(open(p).read())
d = 'sub'; print(open(d + '/a.json').read(), open(f'{d}/a.json').read())
f = lambda x: x * 2; print(f(3), (lambda a, b=1: a + b)(2))
print(''.join(chr((ord(c) - 97 + 13) % 26 + 97) for c in 'uryyb'))
print('é✓', len('日本語'))
x: int = 3; x += 1; x -= 2; print(x if x else None)
a, *b = [1, 2, 3]; print(a, b, (n := 4), n)
d = {}; d['a'] = 1; d.setdefault('b', []).append(2); del d['a']; print(d)
print(bytes.fromhex('6869').decode('ascii'), 'hi'.encode().hex(' '), int.from_bytes(b'\x01\x02', 'big'))
print(*[1, 2, 3], sep=', ', end='!\n'); print(dict(zip('ab', range(2))))
print(__name__)
assert 1 + 1 == 2, 'math'; print('fine')
print({**{'a': 1}, 'b': 2}, [*range(3)], 1 if not [] else 2, 3 < 4 <= 5, ~5 & 7, 'a' in 'abc')
id = 3; list = [id]; print(list)
import traceback, json
""".strip().split("\n")

LONGER = [
    """
import json
with open('data.json') as f:
    data = json.load(f)
for row in data:
    if row.get('n', 0) > 1:
        print(f"{row['kind']}: {row['n']:>5}")
print(f"total {len(data)}")
""",
    """
import json, sys
try:
    data = json.load(open('data.json'))
except (json.JSONDecodeError, FileNotFoundError) as e:
    print(f"bad: {e}", file=sys.stderr)
    sys.exit(1)
else:
    print(type(data), type(data) is list)
finally:
    print("done")
""",
    """
try:
    import tomllib
except ImportError:
    import tomli as tomllib
with open("pyproject.toml", "rb") as fh:
    project = tomllib.load(fh)["project"]
print(project["name"], project.get("version"))
""",
    """
import re
from collections import Counter, defaultdict

counts = Counter()
by_level = defaultdict(int)
for line in open('notes.txt'):
    m = re.match(r'^(\\w+):', line)
    if not m:
        continue
    counts[m.group(1)] += 1
    by_level[m.group(1).lower()] += len(line)
for name, n in counts.most_common(10):
    print("%-20s %d" % (name, n))
""",
    """
import json

def walk(node, path=''):
    if isinstance(node, dict):
        for key, value in node.items():
            yield from walk(value, path + '.' + key)
    elif isinstance(node, list):
        for place, value in enumerate(node):
            yield from walk(value, path + f'[{place}]')
    else:
        yield path, node

def main() -> None:
    with open('package.json') as f:
        for path, value in walk(json.load(f)):
            print(path, value)

if __name__ == '__main__':
    main()
""",
    """
import csv, statistics
rows = list(csv.DictReader(open('rows.csv', newline='', encoding='utf-8')))
values = [float(r['n']) for r in rows if r['n']]
print('rows', len(rows))
print('mean', statistics.mean(values), 'max', max(values))
values.sort(reverse=True)
while values:
    print(values.pop())
""",
    """
import ast
tree = ast.parse(open('mod.py').read())
for node in ast.walk(tree):
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        print(node.lineno, node.name, ast.get_docstring(node))
""",
    """
from pathlib import Path
total = 0
for p in sorted(Path('sub').rglob('*.json')):
    text = p.read_text()
    total += len(text)
    print(p, len(text.splitlines()))
print(total)
""",
    """
# compares two files
import difflib, sys
a = open('notes.txt').read().splitlines()
b = open('mod.py').read().splitlines()
sys.stdout.writelines(line + '\\n' for line in difflib.unified_diff(a, b))
""",
    """
import json, glob
files = sorted(glob.glob('sub/*.json'))
for f in files:
    with open(f) as fh:
        print(f, len(json.load(fh)))
""",
    """
import xml.etree.ElementTree as ET
tree = ET.parse('cov.xml')
root = tree.getroot()
try:
    print(root.attrib['line-rate'])
except KeyError as error:
    print('none', error.args, type(error).__name__, error.__class__.__name__)
    raise SystemExit(2)
""",
    """
import os
base = 'sub'
for name in os.listdir(base):
    path = os.path.join(base, name)
    print(path, os.path.getsize(path), open(os.path.join(base, name)).read()[:1])
""",
    """
def fib(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a
print([fib(i) for i in range(10)])
""",
]

# In one line each what does more, may do more, or reads what its text does not name.
MORE = r"""
import os; os.system('id')
import subprocess; subprocess.run(['id'])
import subprocess
import shutil; shutil.rmtree('x')
import shutil; print(shutil.disk_usage('/'))
import socket
import ctypes
import requests; print(requests.get('http://x').text)
import urllib.request; print(urllib.request.urlopen('http://x').read())
import http.client
import pickle; pickle.load(open('x','rb'))
import marshal
import importlib; importlib.import_module('os')
import importlib.util as u; u.module_from_spec(u.find_spec('os'))
import importlib.util; importlib.util.find_spec('a.b')
import runpy
import code
import pty; pty.spawn('sh')
import tempfile
import sqlite3
import antigravity
import this
import json.tool
import timeit; timeit.timeit('1')
import inspect
import gc
import builtins; builtins.open('x','w')
import builtins as b; b.exec('1')
import __main__
import site; site.main()
import sysconfig; print(sysconfig.get_config_vars())
import codecs; codecs.open('x','w')
import fileinput
import logging; logging.basicConfig(filename='x')
import linecache; print(linecache.getlines('/etc/shadow'))
import zipfile; zipfile.ZipFile('x').extractall()
import tarfile
import mmap
import signal
import threading
import multiprocessing
import asyncio
import concurrent.futures
import pdb; pdb.set_trace()
import atexit; atexit.register(print)
import faulthandler
import resource
import webbrowser
import cProfile
import dataclasses
import numpy
import mypackage
from . import x
from .json import loads
from os import *
from json import *
from os import system
from os import environ
from os import system as load
from os import popen, path
from sys import modules
from sys import settrace
from builtins import open
from io import open
from io import FileIO
from functools import wraps, lru_cache
from operator import attrgetter
from operator import methodcaller
from collections import namedtuple
from string import Formatter
from string import Template
from json import decoder
from json import tool
from importlib import import_module
from pathlib import os
from glob import os
import json as open
import json as print
import json as str
import os as __builtins__
import json as x, sys as x
import json; json = 1
import json; json.codecs.open('x', 'w')
import json; json.decoder.scanner
import json; print(json)
import json; x = json
import json; print(json.__dict__)
import json; f = [json]
import json; json.load = print
import json; json.x = 1
import json; del json.load
import json; del json
import json; json.loads.__globals__
import sys; sys.modules['os'].system('id')
import sys; print(sys.modules)
import sys; sys.path.insert(0, '/tmp')
import sys; sys.path.append('x')
import sys; sys.path[0] = 'x'
import sys; sys.path += ['x']
import sys; p = sys.path; p.append('x')
import sys; f(sys.path)
import sys; print(sys.path.append('x'))
import sys; [].extend(sys.path); sys.path.clear()
import sys; list.append(sys.path, 'x')
import sys; print(x := sys.path)
import sys; [p.append('x') for p in [sys.path]]
from sys import path; path.append('x')
from sys import path as p; p[:] = []
from sys import path; path += ['x']
from heapq import heappush as print; import sys; print(sys.path, 'x')
print = list.append; import sys; print(sys.path, 'x')
import sys; sys.stdout = open('notes.txt')
import sys; sys.excepthook = print
import sys; sys.displayhook(1)
import sys; sys.settrace(print)
import sys; sys._getframe()
import sys; sys.meta_path
import sys; sys.path_hooks
import sys; sys.breakpointhook()
import sys; sys.stdin.fileno()
import sys; sys.addaudithook(print)
import os; print(os.environ)
import os; print(os.environ['PATH'])
import os; print(os.getenv('X'))
import os; os.remove('x')
import os; os.rename('a', 'b')
import os; os.open('x', 1)
import os; os.popen('id')
import os; os.path.os.system('id')
import os; os.path.genericpath.os
import os; os.chdir('/')
import os; os.listdir(input())
import os; os.listdir(chr(47))
import os; print(os.path.expandvars('$HOME'))
import os; map(os.listdir, ['/'])
import os; os.walk(top='x')
import os; os.walk('x', onerror=print)
import os, sys; os.listdir(sys.argv[1])
open('x', 'w')
open('x', 'a')
open('x', 'x')
open('x', 'r+')
open('x', 'w+b')
open('x', 'rb+')
open('x', 'U')
open('x', mode='w')
open('x', 'r', mode='w')
open('x', m)
open('x', 'r' + '+')
open('x', 'r' if 0 else 'w')
open('x', f'w')
open('x', **{'mode': 'w'})
open(*['x', 'w'])
open(**{'file': 'x', 'mode': 'w'})
open(file='x', mode='w')
open('x', opener=print)
open('x', 'r', 1)
open('x', buffering=0)
open(1, 'w')
open(1)
open(3)
open(True)
open(False)
open(0.0)
open(b'x')
open(chr(47))
open(input())
open('a' + input())
open(['x'][0])
open({'a': 'x'}['a'])
open('x'.replace('x', 'y'))
open('%s' % 'x')
open('{}'.format('x'))
open(f'{1}')
open(f"{'x'!r}")
open(f"{'x':>9}")
open('\0')
o = open; o('x', 'w')
(open)('x', 'w')
[open][0]('x', 'w')
(lambda f: f('x', 'w'))(open)
print(*map(open, ['a', 'b']))
list(map(open, ['a'], ['w']))
print(open)
f = [open]
open = print
open.__call__('x', 'w')
open('x').write('y')
open('x').__class__('x', 'w')
open('x').buffer.raw
def open(x): pass
for open in []: pass
with open('x') as open: pass
import sys; open(sys.argv[1])
import sys; f = sys.argv[1]; open(f)
import sys; print(open(sys.stdin.readline().strip()).read())
f = 'a'; f += input(); open(f)
f = 'a'; f += 'b'; open(f)
for f in ['a', chr(47)]: open(f)
fs = ['a']; fs.append(chr(47)); [open(f) for f in fs]
fs = gs = ['a']; gs.append(chr(47)); [open(f) for f in fs]
fs = ['a']; fs[0] = chr(47); [open(f) for f in fs]
fs = ['a']; fs += [chr(47)]; [open(f) for f in fs]
print(fs := ['a']); [open(f) for f in fs]
(fs := ['a']).append(chr(47)); [open(f) for f in fs]
f = 'a'; f, g = chr(47), 1; open(f)
f = 'a'; [open(f) for f in [chr(47)]]
f = 'a'; (lambda f: open(f))(chr(47))
f = 'a'; g = lambda f=chr(47): open(f)
def g(f): return open(f)
def g(*f): return open(f)
f = f; open(f)
f = g; g = f; open(f)
from itertools import chain as sorted; [open(f) for f in sorted(['a'])]
sorted = map; [open(f) for f in sorted(['a'])]
import glob; [open(f) for f in glob.glob(x)]
import glob; [open(f) for f in glob.glob('../*')]
import glob; [open(f) for f in glob.glob('a', root_dir='/')]
import glob; [open(f + 'x') for f in glob.glob(chr(47))]
import glob; g = glob.glob
import glob; glob.os
import io; io.open('x', 'w')
import io; io.FileIO('x', 'w')
import io; io.open_code('x')
import gzip; gzip.open('x', 'w')
import gzip; gzip.open('x', 'wb')
import gzip; gzip.open(chr(47))
import gzip; gzip.GzipFile('x', 'w')
from pathlib import Path; Path('x').write_text('y')
from pathlib import Path; Path('x').write_bytes(b'y')
from pathlib import Path; Path('x').unlink()
from pathlib import Path; Path('x').rename('y')
from pathlib import Path; Path('x').replace('y')
from pathlib import Path; Path('x').replace(target='y')
from pathlib import Path; Path('x').replace(*['y'])
from pathlib import Path; Path('x').replace(**{'target': 'y'})
from pathlib import Path; list(map(Path('x').replace, ['y']))
from pathlib import Path; f = Path('x').replace; f('y')
from pathlib import Path; Path.replace(Path('x'), 'y')
from pathlib import Path; type(Path('x')).replace(Path('x'), 'y')
from pathlib import Path; t = type(Path('x')); t.replace(Path('x'), 'y')
from pathlib import Path; (lambda t: t.replace(Path('x'), 'y'))(type(Path('x')))
from pathlib import Path; print = lambda t: t.replace(Path('x'), 'y'); print(type(Path('x')))
from pathlib import Path; [type][0](Path('x'))
from pathlib import Path; list(map(type, [Path('x')]))[0].replace(Path('x'), 'y')
from pathlib import Path; Path('x').__class__.replace(Path('x'), 'y')
from pathlib import Path; P = Path; P.unlink(P('x'))
from pathlib import Path; list(map(Path, ['x']))
from pathlib import Path; Path('x').touch()
from pathlib import Path; Path('x').mkdir()
from pathlib import Path; Path('x').rmdir()
from pathlib import Path; Path('x').chmod(0)
from pathlib import Path; Path('x').symlink_to('y')
from pathlib import Path; Path('x').hardlink_to('y')
from pathlib import Path; Path('x').copy('y')
from pathlib import Path; Path('x').copy_into('y')
from pathlib import Path; Path('x').move('y')
from pathlib import Path; c = Path('x').copy; c('y')
from pathlib import Path; Path('x').open('w')
from pathlib import Path; Path('x').open(mode='a')
from pathlib import Path; o = Path('x').open
from pathlib import Path; Path(chr(47)).read_text()
from pathlib import Path; Path('x').parent.read_text()
from pathlib import Path; (Path('x') / chr(47)).read_text()
from pathlib import Path; Path('x').joinpath(chr(47)).read_text()
from pathlib import Path; Path.home().read_text()
from pathlib import Path; Path.cwd()
from pathlib import Path; Path('x').with_suffix('.env').read_text()
from pathlib import Path; Path('x').resolve()
from pathlib import Path; Path('x').absolute().read_text()
from pathlib import Path; Path(chr(47)).iterdir()
from pathlib import Path; Path('x').glob('../*')
from pathlib import Path; Path('x').glob(chr(42))
from pathlib import Path; r = Path('x').read_text
from pathlib import Path; Path(*['x'])
import ast; ast.parse('x = =', chr(47))
import ast; ast.parse('x = =', filename=chr(47))
import ast; p = ast.parse
import ast; ast.parse(*['x', '/etc/shadow'])
import ast; ast.parse('x', **{'filename': '/etc/shadow'})
import ast; ast.compile
import ast; ast.sys
import ast; ast.NodeVisitor
raise ImportError('x', name='antigravity', name_from='y')
raise ModuleNotFoundError(name='this')
raise SyntaxError('x', ('/etc/shadow', 1, 1, None))
raise NameError('x', name='y')
E = ImportError
e = [SyntaxError]
import xml.etree.ElementTree as E; raise E.ParseError('x', ('/etc/shadow', 1, 1, None))
import xml.etree.ElementTree as E; E.parse('a').write('b')
import xml.etree.ElementTree as E; t = E.parse('a'); t.write('b')
import xml.etree.ElementTree as E, csv; t = E.parse('a'); csv.writer(t).writerow(['b'])
import xml.etree.ElementTree as E; t = E.parse('a'); print('b', file=t)
import xml.etree.ElementTree as E; print('b', end='', file=E.parse('a'))
import xml.etree.ElementTree as E; t = u = E.parse('a')
import xml.etree.ElementTree as E; [t.write('b') for t in [E.parse('a')]]
import xml.etree.ElementTree as E; t = E.parse('a'); w = t; w.write('b')
import xml.etree.ElementTree as E; t = E.parse('a'); t.getroot
import xml.etree.ElementTree as E; print(t := E.parse('a'))
import xml.etree.ElementTree as E; E.parse(chr(47)).getroot()
import xml.etree.ElementTree as E; E.ElementTree(E.fromstring('<a/>')).write('b')
import xml.dom.minidom
import lxml.etree
import yaml; yaml.load(open('x'))
import yaml; yaml.load(open('x'), Loader=yaml.Loader)
import yaml; yaml.load(open('x'), yaml.UnsafeLoader)
import yaml; yaml.load(open('x'), yaml.FullLoader)
import yaml; yaml.unsafe_load(open('x'))
import yaml; yaml.full_load(open('x'))
import yaml; f = yaml.load
import yaml; yaml.load(open('x'), **{'Loader': yaml.SafeLoader})
import yaml; yaml.SafeLoader.add_constructor('x', print)
import yaml; L = yaml.SafeLoader
import yaml; yaml.load(open('x'), Loader=lambda s: s)
import configparser; c = configparser.ConfigParser(); c.read(chr(47))
import configparser; c = configparser.ConfigParser(); c.read(['a', chr(47)])
import configparser; c = configparser.ConfigParser(); list(map(c.read, [chr(47)]))
import configparser; configparser.ConfigParser.read(configparser.ConfigParser(), chr(47))
import configparser; configparser.ConfigParser().read(filenames=chr(47))
import time; time.sleep(3600)
import time; time.sleep(x)
import time; time.sleep(-1)
import time; s = time.sleep
import functools; functools.partial(open, 'x', 'w')()
import functools; functools.singledispatch
import json; json.loads('1', object_hook=eval)
import json; json.loads('{}', object_hook=open)
import json; json.loads('1', parse_int=exec)
import json; json.JSONEncoder
import re; re.sub('x', eval, 'x')
import re; re.sre_compile
import csv; csv.csv
import collections; collections.abc
import collections; collections._sys
import random; random._os.system('id')
import random; random.SystemRandom
import textwrap; textwrap.re
import base64; base64.main()
import platform; platform.popen
import platform; print(platform.node())
import shutil; shutil.copy('a', 'b')
import shutil; shutil.os
import string; string.Formatter().format('{0.__class__}', 1)
eval('1')
exec('1')
compile('1', 'x', 'exec')
__import__('os').system('id')
__builtins__
__builtins__['open']
__loader__
__spec__
__file__
__doc__
getattr(1, 'real')
getattr(1, '__class__')
setattr(1, 'a', 1)
delattr(1, 'a')
hasattr(1, 'x')
globals()
locals()
vars()
dir()
input()
breakpoint()
help()
help('modules')
object()
super()
property(print)
classmethod(print)
[].__class__
[].__class__.__base__.__subclasses__()
().__class__.__mro__
(lambda: 0).__code__
(lambda: 0).__globals__
print.__self__
print.__self__.eval('1')
'x'.__class__.__name__.__class__
''.format.__self__
(x for x in []).gi_frame
[x.gi_frame.f_back for x in [(y for y in [])]]
'{0.__class__}'.format(1)
'{0.real}'.format(1)
'{0[a]}'.format({})
'{a.b}'.format(a=1)
'{:{0.real}}'.format(1)
x = '{0.real}'; x.format(1)
('{0.re' + 'al}').format(1)
str.format('{0.real}', 1)
f = str.format
list(map('{0.real}'.format, [1]))
'{a}'.format_map({})
f'{x.__class__}'
f'{open("x", "w")}'
f'{().__class__}'
f'{1:{().__class__}}'
f'{1:{[1]}}'
f'{1:{{x}}}'
class A: pass
class A(str): x = 1
@print
async def f(): pass
await x
del print
del x
x.y = 1
x.y += 1
[].append = 1
for x.y in []: pass
with open('x') as x.y: pass
(x.y, z) = 1, 2
[x.y for x.y in []]
print(unknown_name)
unknown_function()
__x = 1
def __getattr__(n): pass
lambda __class__: 1
import json as __x
global __builtins__
global open
try: pass
type('A', (), {})
type('A', (), {})()
type(1)(2)
type(1).__bases__
x = type(1)
type(*[1])
isinstance(1, type(2))
exit
quit
e = exit
ｏｐｅｎ('x', 'w')
x = ｅｖａｌ
import ｏｓ; ｏｓ.ｓｙｓｔｅｍ('id')
print(1).ｗｒｉｔｅ
# coding: utf-7
# -*- coding: rot13 -*-
print(1) # vim: set fileencoding=utf-7 :
print(1
print 1
exec "x"
`id`
!id
%run x
print >> open('x', 'w'), 1
match x:
file('x', 'w')
apply(print)
reload(x)
for file in []: pass
raw_input()
license()
copyright()
exit(code=1)
""".strip().split("\n")

MORE_LONGER = [
    "@print\ndef f(): pass",
    "@staticmethod\ndef f(): pass",
    "async def f():\n    pass",
    "match 1:\n    case int(real=r):\n        print(r)",
    "try:\n    pass\nexcept* ValueError:\n    pass",
    "class A:\n    def __del__(self): pass",
    "def f():\n    global open\n    open = 1",
    "def f():\n    import os as open",
    "try:\n    pass\nexcept ValueError as open:\n    pass",
    "try:\n    pass\nexcept ValueError as __x:\n    pass",
    "x = 1\n\x0cimport os",
    "x = 1\rimport os",
    "x = 1\x00",
    "\ufeffimport os",
    "x = '\u202e'",
    "x = 1\u2028import os",
    "x = '" + "a" * 10_001 + "'",
    "-" * 5_000 + "1",
    "(" * 500 + ")" * 500,
    "print(" + "+".join("1" * 3_000) + ")",
    "def g():\n    return 'a'\nprint(open(g()).read())",
    "def g(p):\n    return p.replace(q, 'y')\ng(type(1))",
    "from json import loads\nfrom yaml import safe_load as loads",
    "import json\ndef json(): pass",
    "import json\nfor json in []: pass",
    "for f in ['a']:\n    f = chr(47)\n    open(f)",
    "def g():\n    f = chr(47)\nf = 'a'\nopen(f)",
    "with open('a') as f:\n    open(f)",
    "for i, f in enumerate(['a']):\n    open(f)",
    "import sys\nsys.path: list = []",
    "import sys\nwith sys.path as p: pass",
    "import sys\ndef f(a=sys.path): a.append('x')",
    "import sys\ndef f(): return sys.path",
    "import sys\ndef f(): yield from sys.path",
    "import ast\ntry:\n    pass\nexcept ast.sys: pass",
    "import sys\nprint(1)\nif 0:\n    sys.modules",
    "if 0:\n    eval('1')",
    "lambda: exec('1')",
    "def f():\n    return __import__('os')",
    "x = [eval for y in []]",
    "x = {eval: 1}",
    "x = 1 if eval else 2",
    "assert eval",
    "def f(x=eval): pass",
    "def f(x: eval('1')): pass",
    "x: eval('1') = 2",
    "def f() -> eval('1'): pass",
    "while eval('0'): pass",
    "raise ValueError from eval('1')",
]
