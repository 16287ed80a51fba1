"""The SQL functions that a client's query may call.

All that compute from their arguments. Not here, of what SQLite has: those that act on the
connection (`load_extension`, `optimize`, `sqlite_log`), that hand out or take pointers
(`fts3_tokenizer`, `fts5`), that look inside (`rtreecheck`, `rtreenode`,
`sqlite_compileoption_get`), and whatever a later SQLite brings.
"""

from __future__ import annotations

_CORE = """
    -> ->> abs char coalesce concat concat_ws format glob hex if ifnull iif instr length like
    likelihood likely lower ltrim max min nullif octet_length printf quote random randomblob replace
    round rtrim sign soundex sqlite_version substr substring trim typeof unhex unicode unistr
    unistr_quote unlikely upper zeroblob
"""

_DATES = """
    current_date current_time current_timestamp date datetime julianday strftime time timediff
    unixepoch
"""

_MATHS = """
    acos acosh asin asinh atan atan2 atanh ceil ceiling cos cosh degrees exp floor ln log log10 log2
    mod pi pow power radians sin sinh sqrt tan tanh trunc
"""

_AGGREGATES = """
    avg count group_concat max median min percentile percentile_cont percentile_disc string_agg sum
    total
"""

_WINDOWS = """
    cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank
    row_number
"""

_JSON = """
    json json_array json_array_insert json_array_length json_error_position json_extract
    json_group_array json_group_object json_insert json_object json_patch json_pretty json_quote
    json_remove json_replace json_set json_type json_valid jsonb jsonb_array jsonb_array_insert
    jsonb_extract jsonb_group_array jsonb_group_object jsonb_insert jsonb_object jsonb_patch
    jsonb_remove jsonb_replace jsonb_set
"""

_SEARCH = "bm25 highlight match matchinfo offsets snippet"

_PLACES = """
    geopoly_area geopoly_bbox geopoly_blob geopoly_ccw geopoly_contains_point geopoly_group_bbox
    geopoly_json geopoly_overlap geopoly_regular geopoly_svg geopoly_within geopoly_xform
"""

ALLOWED = frozenset(
    name
    for group in (_CORE, _DATES, _MATHS, _AGGREGATES, _WINDOWS, _JSON, _SEARCH, _PLACES)
    for name in group.split()
)
"""In lower case."""
