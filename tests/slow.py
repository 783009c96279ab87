"""The test modules that `make test-fast` leaves out, each with the reason.

A module is slow if it needs more than PostgreSQL and services in the process of the tests: servers,
brokers, browsers, faults. It is slow as well if it plays thousands of cases.
"""

SLOW = {
    "faults": "breaks servers, connections, disks and clocks",
    "test_application.py": "runs each command with foreign modules in its path",
    "test_bench.py": "measures running servers",
    "test_body_room.py": "fills the memory of a server",
    "test_clients.py": "starts a server, nginx and a JVM",
    "test_database_settings.py": "migrates databases with unusual settings",
    "test_distributed_locks.py": "starts, freezes and kills Redis and ZooKeeper",
    "test_embedded.py": "starts, freezes and kills PostgreSQL",
    "test_grants.py": "starts servers with the roles of another database",
    "test_guards.py": "plays each interleaving with and without its guard",
    "test_histories.py": "kills workers and checks the histories of their clients",
    "test_hostile_headers.py": "sends each hostile value in each header",
    "test_interleavings.py": "plays thousands of orders of steps",
    "test_json_text.py": "parses hundreds of generated texts",
    "test_lab.py": "plays the laboratory's campaigns",
    "test_nameless.py": "starts PostgreSQL as other users",
    "test_page_browser.py": "drives Chromium",
    "test_parsing_agrees.py": "compares hundreds of generated bodies",
    "test_planner.py": "plans hundreds of generated batches",
    "test_pooler.py": "starts PgBouncer",
    "test_protocol.py": "waits for the deadlines of a server",
    "test_races.py": "races hundreds of clients against servers",
    "test_replay.py": "replays thousands of orders against a server",
    "test_roles.py": "starts PostgreSQL with the roles of a new cluster",
    "test_schema.py": "migrates databases in several processes",
    "test_schemathesis.py": "sends thousands of generated requests to a server",
    "test_settings.py": "starts a server for each setting",
    "test_stateful.py": "plays thousands of generated steps",
    "test_strategies.py": "races clients with each strategy and its broker",
}
