"""Statistics on ClickHouse, a server's or an embedded one's.

Gives    open_statistics; ClickhouseStatistics, which implements mailcore.ports.Statistics
Takes    clickhouse://user:password@host:9000/database, or chdb+unix:///path.sock?database=NAME
Raises   StoreUnavailable; SchemaError for bodies that can never be stored; SettingsError for an
         address of no known form
Follows  design.md section 3 step 8
"""

from mailio.stats.store import ClickhouseStatistics as ClickhouseStatistics
from mailio.stats.store import open_statistics as open_statistics
