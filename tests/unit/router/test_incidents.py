"""The incident detector: on wording of our own, and on the public rows where they are at hand."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from router.policy import default_policy
from router.route import trace
from router.types import StateView, TaskType
from tests.unit.router.asks import ask

ROWS = Path(__file__).parents[4] / "shared" / "data" / "router"
APART = {"debugging", "infrastructure", "performance"}  # may well be incidents: counted by themselves
POLICY = default_policy()

# Each list was written before its words were known to the detector: the first was found in 10 of 18, the second in 5 of
# 14, the third in 3 of 12, before the detector learned from them.
INCIDENTS = [
    "PagerDuty woke me up: payments-api is returning 502s since 03:12 UTC. What's going on?",
    "Users report that login hangs. Grafana shows CPU at 100 % on two of six hosts. Please find the cause.",
    "Why are our Kafka consumers lagging behind since this morning's deploy? Orders pile up in the queue.",
    "Sev2: error rate of the search service jumped from 0.1% to 14% at 10:40. Identify the faulty component.",
    "The nightly batch died with OOMKilled on node-7. Determine what led to it, here is what the kubelet says.",
    "We had an outage between 14:00 and 14:25. Work out which service failed first and why.",
    "Postgres replica is 40 minutes behind and queries time out. Investigate.",
    "p95 latency of checkout went up threefold after the config change at 09:00, troubleshoot this please",
    "Several pods in namespace shop are in CrashLoopBackOff. Diagnose the problem.",
    "DNS lookups inside the cluster fail intermittently, can you look into what happened around 11:30?",
    "Alertmanager is firing HighErrorRate for api-gateway. What is causing it?",
    "Between 02:00 and 02:30 one component malfunctioned; telemetry is attached. Name the component and the reason.",
    "Disk full on db-primary, writes are refused. Which process is the culprit?",
    "12:00:01 ERROR upstream reset\n12:00:02 ERROR upstream reset\n12:00:03 ERROR upstream reset\nwhat is wrong here?",
    "Die Produktion ist ausgefallen, seit 08:15 kommen nur noch Fehler 503. Finde die Grundursache.",
    "线上支付服务 10:20 开始大量报错, 请定位根因",
    "El servicio de pagos sufre un fallo desde las 14:30 en producción, diagnostica la causa raíz",
    "В продакшене сбой: с 12:10 сервис оплаты отдаёт ошибки 500. Найди первопричину.",
    "Our mobile app shows a blank page for everyone since the release at 17:45; figure out which backend is to blame.",
    "Redis memory keeps growing and evictions started an hour ago, root cause analysis please",
    "The build farm is unreachable from the office network. Track down the reason.",
    "Customers complain about duplicate charges after last night's failover. Investigate how this happened.",
    "Throughput of the ingest service dropped by half at 06:20. Which of its dependencies is responsible?",
    "Three out of nine brokers left the cluster at midnight, explain why with the logs below",
    "We see a sudden increase in 504 responses from the edge. Locate the bottleneck.",
    "The system reported an anomaly on 12 May 2023 between 01:10 and 01:40. Determine the affected service.",
    "Cert expired? TLS handshakes to the auth service fail from pod A but not from pod B. Debug this incident.",
    "VM host-12 rebooted unexpectedly at 04:33, analyse the telemetry and tell me the root cause",
    "Database connections are exhausted every day at noon, please diagnose",
    "本番環境で注文サービスが 9:05 から障害中です。根本原因を調べてください",
    "Le service de paiement est en panne depuis 10h15, trouve la cause racine",
    "O serviço de checkout está com falha em produção desde 13:00, investigue a causa raiz",
    "The queue depth on rabbit-2 went from 100 to 90k within ten minutes after the 15:20 rollout. What happened?",
    "Help me understand why half of our cron jobs did not run last night",
    "Kubernetes nodes flip between Ready and NotReady. Need the root cause before tomorrow's change freeze.",
    "Some requests to /login return 401 although the token is valid, only in eu-west since Tuesday. Investigate",
    "At 19:02 the order service stopped consuming messages; restart did not help. Analyse the attached thread dump.",
    "Our cache hit ratio collapsed yesterday evening and the database is overloaded as a consequence. Why?",
    "Monitoring shows packet loss of 8 % between rack 3 and rack 5, find the faulty device",
    "A failure occurred in the telecom system on 2020-04-11 between 00:00 and 00:30; give component and time of its "
    "root cause",
    "Production is down!!! nginx says: connect() failed (111: Connection refused) while connecting to upstream",
    "Memory of the JVM climbs until the pod gets killed, roughly every six hours; which class leaks?",
    "Unser Kubernetes-Cluster antwortet seit 7 Uhr nicht mehr, bitte Ursache finden",
    "结账接口从今天早上开始超时,帮我排查原因",
]  # fmt: skip
OTHERS = [
    "Write a Python function that retries a request on timeout errors",
    "What is the difference between latency and throughput?",
    "Explain how Kubernetes schedules pods on nodes",
    "Design an on-call rotation for a team of six",
    "My unit test fails with AssertionError: 3 != 4, here is the function. Fix it.",
    "Summarize this postmortem in three bullet points",
    "What does HTTP 503 mean?",
    "Translate to German: the server is down",
    "Compare Kafka and RabbitMQ for order processing",
    "How do I monitor a Postgres cluster with Prometheus?",
    "Create a runbook template for incidents",
    "Why is the sky blue?",
    "Set up alerts in Grafana for CPU above 90 %",
    "Refactor this error handling so that exceptions are logged",
    "List the most common causes of memory leaks in Java",
    "Write a poem about a broken server",
    "How can I debug a memory leak in a Node.js application?",
    "Describe the root cause analysis technique '5 whys'",
    "Write SQL to find failed orders in the last hour",
    "Generate a bash script which restarts nginx when it is down",
    "What are good SLOs for a payments API?",
    "Explain what a circuit breaker does when a service is slow",
    "Classify this ticket: 'the printer is broken'",
    "Why does my React component re-render twice?",
    "Prove that the halting problem is undecidable",
    "Draft an email to customers apologising for yesterday's outage",
    "Who invented the telephone?",
    "Optimize this query, it is slow: select * from t",
    "Explain the CAP theorem with an example of a network partition",
    "Give me interview questions about incident management",
    "What is the best way to log errors in Go?",
    "Implement exponential backoff for failed requests",
    "Compare blue-green and canary releases since both reduce risk",
    "Is it normal that my laptop is slow?",
    "Translate this alert text to French",
    "Rewrite the following incident report in a friendlier tone",
    "Why do databases use B-trees?",
    "Which database should I use for a chat application, Postgres or Cassandra?",
]

# Told in plain words, in which hardly one of the words of an incident report occurs: 6 of the 90 were found before the
# detector learned from them. UNSEEN was written after that and is not to be learned from: it says what to expect.
TOLD = [
    "Since we rotated the database password the invoicing workers keep dying, can you tell what they are "
    "still using the old one for?",
    'Half the requests to the image resizer come back empty. Nothing was deployed today. Where do I start looking?',
    "Our SMTP relay has a queue of 40k mails and it is not shrinking. What's holding it up?",
    'The status page shows red for EU customers only. US is fine. Help me narrow it down.',
    'grafana: node_filesystem_avail_bytes = 0 on web-03, site is returning blank pages, help',
    'Nobody in the Berlin office can reach the VPN since the firewall upgrade. What changed that could break it?',
    'Our websocket connections get cut exactly every 60 seconds since we moved behind the new load balancer.',
    "I see 'too many open files' in the proxy's log and clients get connection resets. Which process leaks them?",
    'Our Elasticsearch cluster went yellow and then red overnight; shards are unassigned. Help me find out why.',
    "Webhooks from Stripe are arriving twice since Friday. Look at these logs and tell me where the "
    "duplicate comes from.",
    'Backups have been silently empty for three days. How could that happen?',
    'kubectl get pods shows ImagePullBackOff for the billing deployment after the registry move, why?',
    'The mobile team says push notifications stopped arriving on Android around noon. iOS works. Any idea?',
    'Response times doubled after we enabled TLS between services, CPU is flat. What is eating the time?',
    'Our Terraform-managed load balancer suddenly marks all targets unhealthy although curl against them gives 200.',
    'We lose about one in a thousand messages between the producer and the consumer. Find where they go.',
    'the site is sooo slow today, ppl are complaining in slack, dashboards attached, pls check what is going on',
    'One of three etcd members is permanently behind and leader elections happen every few minutes.',
    'After the daylight saving change the scheduler fired every job twice. Explain the mechanism from the logs below.',
    'Login works on the web but the API answers 403 to the same user since the last permission sync. Dig into it.',
    'Our GPU nodes fall out of the cluster one after another, dmesg says Xid 79. What does that point to?',
    'Der Bestellservice liefert seit gestern Abend leere Antworten, die Logs zeigen nichts. Woran kann es liegen?',
    "Las colas de RabbitMQ crecen sin parar desde el despliegue de ayer y los consumidores parecen "
    "dormidos. ¿Qué pasa?",
    "Depuis la mise à jour de mardi, un appel sur dix à l'API expire. Peux-tu trouver d'où ça vient ?",
    '昨晚升级之后,订单服务的响应时间从 50ms 涨到 3 秒,帮忙看看是哪里的问题',
    'После обновления кластера поды не могут достучаться до базы. Помоги понять, в чём дело.',
    'Prometheus scrapes of the payment pods time out but the pods themselves look happy. What gives?',
    "Something ate all our IPs: new pods hang in ContainerCreating with 'failed to assign an IP address'.",
    "We're bleeding money: autoscaler keeps adding nodes although utilisation is at 15 %. Why would it?",
    'The certificate on api.example.com is fine in my browser, yet partner systems reject it since midnight.',
    "Replication from primary to the reporting DB broke at some point last week and nobody noticed. Piece"
    " together what happened.",
    "Our checkout conversion fell off a cliff at 13:05 and I suspect the tax service. Confirm or refute "
    "from these metrics.",
    'curl to our own API from inside the pod hangs, from outside it works. What is different?',
    "Jobs sit in 'pending' for twenty minutes before a runner picks them up; last month it was seconds. "
    "Find the reason.",
    'The new firmware makes every third sensor drop off the network after an hour. What should I suspect first?',
    "Our cache returns other users' data sometimes!! This started with yesterday's release. Help me find how.",
    "Nginx workers segfault about twice an hour, core dump's backtrace below. What is the cause?",
    "Half of our Lambda invocations are being throttled since the marketing campaign went live, "
    "concurrency is at 400 of 1000.",
    'We get paged every night at 03:00 for replication lag that heals itself by 03:20. What is running then?',
    'Files uploaded through the portal are truncated at exactly 64 MB since the gateway migration.',
    'disk io on the db host is pegged at 100% since this morning, app is crawling. who is doing it?',
    'Customers in Asia see stale prices for up to an hour; the CDN purge reports success. Where are they stuck?',
    'All our SSH sessions to the bastion freeze after a few minutes of idling since the switch was replaced.',
    'The metrics pipeline dropped everything between 4 and 5 am. Which hop lost it?',
    'Users get logged out at random. Sessions are in Redis, which was resized on Monday. Coincidence?',
    'Our k8s API server is so slow that kubectl get nodes takes a minute. etcd looks okay. What else can it be?',
    "Heap of the recommendation service grows by 200 MB an hour and GC can't keep up. Find out what holds on to it.",
    'Why does the health check flap on only two of the twelve replicas?',
    'After failover to the secondary site, writes succeed but reads show old data. Diagnose.',
    'The nightly export finished in 5 minutes instead of 3 hours and the file is tiny. What went wrong?',
    "Orders are stuck in state PAYMENT_PENDING since the queue upgrade, around 1,200 by now. Need to know"
    " where they hang.",
    "Seit dem Neustart des Routers verlieren die Kassen in Filiale 12 alle paar Minuten die Verbindung. "
    "Bitte eingrenzen.",
    'El balanceador manda todo el tráfico a un solo nodo desde el mantenimiento del domingo. ¿Por qué?',
    'Les utilisateurs reçoivent une erreur 504 une fois sur cinq depuis la bascule de ce matin. Aide-moi à comprendre.',
    '数据库主从延迟突然升到 20 分钟,从今天早上八点开始,帮我分析一下',
    'С утра очередь задач растёт и не разгребается, воркеры живы. В чём может быть причина?',
    'Our build agents run out of disk within a day since we switched to the new base image. What is filling it up?',
    'Envoy reports upstream_reset_before_response_started for about 2 % of calls. Track it down please.',
    'Our search results are empty for every query containing an umlaut since the index rebuild on Saturday.',
    'The payment provider says our callbacks time out, we see nothing in our logs. Where could they get lost?',
    "The thermostat gateway reboots itself whenever more than fifty devices connect. Logs are below, "
    "please find the trigger.",
    'Payroll ran this morning but 300 employees got no payslip. Track where their records were dropped.',
    'Our Jenkins controller eats 30 GB of RAM by lunchtime and has to be bounced daily. What is retaining it?',
    'Emails to gmail addresses bounce with 550 since we changed the SPF record, other domains are fine.',
    'Every second page load shows the German translation to English visitors. It began with the cache change.',
    'MongoDB secondaries went into ROLLBACK after the power cut, what now and why did it come to that?',
    'Android devices fail to enrol in the MDM with error -7, iPads enrol without trouble. Find the difference.',
    'The PDF generator produces blank invoices for orders with more than 99 lines as of the last patch.',
    'We migrated to IPv6 and now a third of the health checks go red for a few seconds each minute. Explain.',
    'istio sidecars get OOM killed in the staging mesh only. Prod has the same limits. Why?',
    'NFS mounts hang on all three build hosts; df just sits there. Which server is to blame?',
    'CPU steal on our VMs is at 40% during office hours. Who is the noisy neighbour?',
    'Our kafka connect sink writes each record three times into snowflake after the rebalance, please investigate',
    'VoIP calls drop after precisely 30 seconds since the SIP trunk was moved. Help!',
    'the nightly ETL has been finishing later and later, it now overlaps with business hours. find out what got slower',
    'Two of our five regions report negative stock levels. Where does the count go wrong?',
    'A deploy of an unrelated service broke image resizing for us. How can these two be connected? Traces attached.',
    "I keep getting 'certificate has expired' from the internal registry but we renewed it on Thursday.",
    'Cron says the cleanup ran, yet /var/log is at 97 % and climbing. What is it not deleting?',
    'GraphQL queries from the iOS app take 8 seconds, the same query in the playground 80 ms. Why the gap?',
    'Clients in one data centre see intermittent NXDOMAIN for internal names. The resolvers look idle.',
    "Our rate limiter blocks paying customers since we put the new proxy in front; all requests seem to "
    "come from one address.",
    'Kiosk terminals show the wrong time and reject logins at store 44. Anything in these logs?',
    'Seit dem Update auf Version 12 bricht die Synchronisation jede Nacht um zwei Uhr ab. Warum?',
    'Desde ayer los usuarios ven el carrito vacío después de iniciar sesión. Encuentra el motivo.',
    "Le tableau de bord n'affiche plus aucune donnée depuis la migration de jeudi, les sondes tournent pourtant.",
    '今天下午开始,用户上传的图片全部显示 404,CDN 刷新了也没用,请帮忙排查',
    'После переезда на новый сервер письма клиентам уходят с задержкой в час. Почему?',
    "Our feature flags service handed out the defaults to everybody for ten minutes around 16:20. What "
    "could have triggered it?",
    'The load test passes at 500 rps and collapses at 520 every single time. What limit are we hitting?',
]  # fmt: skip
UNSEEN = [
    'Our print servers stop answering around 10 every morning and recover by lunch. Find out why.',
    "We can't push to the container registry any more, layers stall at 99 %. What is going on?",
    'The Oracle listener refuses connections after the patch weekend. Please analyse.',
    'Wi-Fi in building C drops everybody at the top of each hour.',
    'Ansible runs hang on exactly four hosts since they were rebooted. What do they have in common?',
    'Some invoices were charged in dollars rather than euros last night. Find the code path or config responsible.',
    "Haproxy's stats page shows backend app-7 going up and down all day long, the app's own log is clean.",
    'We noticed that audit events arrive in Splunk out of order and up to six hours late. Where is the delay?',
    'Scaling the read replicas from 2 to 6 made queries slower, not faster. How is that possible?',
    'Our Redis keeps evicting session keys although only half the memory is in use.',
    'SAP batch input sessions abort with a lock timeout since month-end closing started, need a cause quickly',
    'The chat service double-posts messages for users on flaky connections after our gRPC upgrade.',
    "Half the fleet shows 'clock skew detected' and tokens are rejected as not yet valid. Who is wrong?",
    'ceph health says 3 pgs stuck inactive, clients block on writes. what do we look at first?',
    'Autocomplete suddenly suggests items that were deleted a month ago. Please work out how they came back.',
    'Our login page throws a CORS error only behind the corporate proxy. It worked on Tuesday.',
    'Hadoop namenode failover took 14 minutes instead of 40 seconds on Sunday, explain it from these logs',
    'WLAN-Drucker im ganzen Haus offline, seit der Switch getauscht wurde. Woran liegt das?',
    'La API devuelve datos de otro cliente de vez en cuando desde el último despliegue, investiga',
    "L'imprimante réseau ne répond plus depuis la coupure de courant, les autres appareils fonctionnent. Pourquoi ?",
    '从凌晨两点起, 消息队列一直堆积, 消费者没有报错, 帮我找原因',
    'Платёжный шлюз отклоняет каждую пятую транзакцию с самого утра, в логах пусто. Что происходит?',
    'Our nightly restore test has failed three times in a row with a checksum mismatch. Which layer corrupts the dump?',
    'GitLab runners pick up no jobs although ten are online and the queue has 200 waiting.',
]  # fmt: skip
# The same subjects in questions and orders of other kinds.
TOLD_OTHERS = [
    'Write a postmortem template for an outage of a payment service',
    'How does Kubernetes decide that a pod is unhealthy?',
    'Explain what ImagePullBackOff means and how it is usually fixed',
    'What causes replication lag in PostgreSQL in general?',
    'Implement a retry with jitter for requests that time out',
    'Design a dashboard that shows queue depth, consumer lag and error rate for Kafka',
    'Our team wants to move from Jenkins to GitHub Actions, what should we consider?',
    'Summarise the incident report below for management in five sentences',
    "Translate this outage notice into Spanish: 'Our API is currently unavailable'",
    'Write a Prometheus alert that fires when the 5xx rate is above 2 % for ten minutes',
    'What questions should I ask in a blameless postmortem?',
    'Why do distributed systems need leader elections?',
    'Compare Elasticsearch and OpenSearch for log analytics',
    'My homework: explain why TCP slows down when packets are lost',
    'Fix this test: expected 200 but got 403, the handler is below',
    'Create a Grafana panel for disk usage per node',
    'How would you shard a Postgres database that grows by 1 TB a month?',
    'Why does my list comprehension return None values?',
    'Give me a checklist for rotating database passwords without downtime',
    'The character in my novel is a sysadmin whose server crashes at midnight. Write the first scene.',
    'Which is better for session storage, Redis or signed cookies?',
    'Add a health check endpoint to this Flask service',
    'Describe how a CDN purge works',
    'What are the trade-offs of putting a load balancer in front of websockets?',
    'Extract all timestamps and error codes from this log as CSV',
    'Plan a game day where we simulate the failure of a region',
    'Schreibe eine Zusammenfassung dieses Ausfallberichts',
    '¿Qué es un balanceador de carga y para qué sirve?',
    '解释一下 Kubernetes 的服务发现机制',
    'Write a regex that matches lines with status 500 to 599',
    'How do I write an alert for certificates that expire within two weeks?',
    'Explain the difference between liveness and readiness probes',
    'What typically makes a JVM heap grow, and which tools show it?',
    'Write a bash script that restarts a service when its port stops answering',
    'Draft a status page update: we are investigating elevated error rates',
    'Refactor the reconnect logic so that it gives up after five timeouts',
    'Create a table of HTTP status codes that a gateway may return',
    'Why is eventual consistency acceptable for a shopping cart?',
    'Which metrics should we collect from Redis?',
    "My Python script crashes with KeyError: 'id', here is the code",
    'Convert this cron schedule to UTC so that the job does not run twice at the time change',
    'Plan the migration of our queue from RabbitMQ to Kafka',
    'Explain to a new hire what the on-call engineer does when paged at night',
    'Generate test data: 100 orders of which 10 have state PAYMENT_PENDING',
    'What is the CAP theorem, and which side does etcd take?',
    'Review our runbook for database failover and suggest improvements',
    "Classify these support tickets by urgency: 'cannot log in', 'site slow', 'typo on the home page'",
    'Write a haiku about a server room at night',
    'How can we reduce cold starts of our Lambda functions?',
    'Build a small load generator that opens 1,000 websocket connections',
    'Is 200 MB of memory per worker normal for gunicorn?',
    'Summarize what changed between nginx 1.24 and 1.26',
    'Suggest a naming scheme for alerts in production',
    'Our CFO asks why cloud costs rose by 12 % this quarter, write a polite answer that we are looking at it',
    'Which load balancing algorithm sends the most even traffic to nodes of different size?',
    'Schreibe ein Ansible-Playbook, das den Webserver neu startet',
    "Explique-moi la différence entre un délai d'attente et une erreur 504",
    '写一个脚本,每天检查磁盘空间,超过 90% 时发邮件',
    'Объясни, как работает репликация в PostgreSQL',
    "What does 'connection reset by peer' mean in general terms?",
    'How does a thermostat gateway usually talk to its devices?',
    'Write a job that emails payslips to employees',
    'What is a sensible heap size for Jenkins?',
    'Explain SPF, DKIM and DMARC to me',
    'Add German translations to our checkout page',
    'When should I pick MongoDB over Postgres for our new product?',
    'Draft an announcement that our MDM will be replaced next week',
    'Write a PDF generator for invoices in Go',
    'Pros and cons of IPv6-only clusters',
    'Set memory limits for the istio sidecars in our staging mesh',
    'Show me how to mount an NFS share on Ubuntu',
    'What does CPU steal mean on a virtual machine?',
    'Design an exactly-once pipeline from Kafka to Snowflake',
    'Recommend a SIP provider for a small office',
    'Estimate how long our nightly ETL will take if the data doubles every year',
    'Write a unit test for a function that must never return negative stock levels',
    'Give an example of a trace with three spans in OpenTelemetry JSON',
    'Create a script that warns us two weeks before a certificate expires',
    'Which files under /var/log can be deleted safely?',
    'Rewrite this GraphQL query so that it asks for fewer fields',
    'Why was DNS designed as a hierarchy?',
    'Implement a token bucket rate limiter in Rust',
    'Our new office opens on Monday; write an invitation for customers',
    'Formatiere diese Liste von Fehlercodes als Tabelle',
    'Escribe una consulta SQL que encuentre carritos vacíos',
    "Résume ce compte rendu d'incident en trois phrases",
    '把下面的错误日志翻译成英文',
    'Составь план миграции на новый сервер',
    'Today I learned about feature flags. What else should a junior developer know about releases?',
    'We want to test our service at 500 rps. Which tool would you choose and why?',
    'What does a print server do?',
    'Write a Dockerfile and push the image to our registry',
    'Explain the difference between the Oracle listener and the database instance',
    'How many access points does an office of 2,000 square metres need?',
    'Write an Ansible role that reboots hosts one after another',
    'Should invoices to US customers be in dollars or euros?',
    'Add a health check for backend app-7 to this haproxy config',
    'How are events ordered in Splunk?',
    'When does it make sense to add read replicas?',
    'Summarise how Redis evicts keys under each policy',
    'Give me an agenda for our month-end closing meeting',
    'Implement message deduplication for our chat service',
    'Why do tokens carry a not-before claim?',
    'What hardware do you recommend for a small Ceph cluster?',
    'Design an autocomplete service for 10 million items',
    'Fix the CORS headers in this Express app so that the login page works',
    'Compare Hadoop and Spark for our nightly jobs',
    'Wie richte ich einen WLAN-Drucker ein?',
    'Escribe pruebas unitarias para esta API',
    "Traduis ce message d'erreur en anglais",
    '消息队列和流处理有什么区别?',
    'Напиши функцию, которая проверяет номер карты',
    'Plan our first restore test: who does what, and when?',
    'Since you know GitLab well, tell me which runner executor fits a team of five',
]  # fmt: skip


def task_of(text: str) -> TaskType:
    return trace(ask(text), StateView(), POLICY).signals.task


def test_incidents_in_other_words():
    missed = [text for text in INCIDENTS if task_of(text) is not TaskType.INCIDENT_DIAGNOSIS]
    assert len(missed) <= 0.1 * len(INCIDENTS), missed


def test_faults_told_in_plain_words():
    found = [text for text in TOLD if task_of(text) is TaskType.INCIDENT_DIAGNOSIS]
    assert len(found) >= 0.75 * len(TOLD)


def test_faults_told_in_words_that_were_not_learned_from():
    found = [text for text in UNSEEN if task_of(text) is TaskType.INCIDENT_DIAGNOSIS]
    assert len(found) >= 0.25 * len(UNSEEN)


@pytest.mark.parametrize("text", [*OTHERS, *TOLD_OTHERS])
def test_the_same_words_without_an_incident(text: str):
    assert task_of(text) is not TaskType.INCIDENT_DIAGNOSIS


def rows(name: str) -> list[dict[str, Any]]:
    path = ROWS / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip("the public label sets are not beside the repository (../shared/data/router)")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_recall_on_the_diagnoses():
    found = [task_of(row["prompt"]) is TaskType.INCIDENT_DIAGNOSIS for row in rows("openrca_incident_diagnosis")]
    assert sum(found) / len(found) >= 0.95


def test_false_positives_on_everything_else():
    seen, hits = Counter[str](), Counter[str]()
    for row in rows("uncommonroute_tiers"):
        kind = "apart" if row["category"] in APART else "others"
        seen[kind] += 1
        hits[kind] += task_of(row["prompt"]) is TaskType.INCIDENT_DIAGNOSIS
    assert hits["others"] / seen["others"] <= 0.02
    assert hits["apart"] / seen["apart"] <= 0.2  # reported, not promised
