/* Written by `python -m clients.generate`, from mixture_arguments.py and pack.py of models. */
enum { ORDERS_COUNT = 5 };
static const int ORDERS[] = {1, 2, 3, 4, 6};
#define CONTEXTS 15
#define WORD 5
#define WORDS 6
#define WORDS_BEFORE 7
#define COLUMN 8
#define LAYOUT 9
#define FIELD 10
#define FIELD_ABOVE 11
#define BRACKET 12
#define SHAPE 13
#define INDIRECT 14
enum { RARE_CONTEXTS_COUNT = 2 };
static const int RARE_CONTEXTS[] = {7, 13};
enum { RECENT_KEYS_COUNT = 7 };
static const int RECENT_KEYS[] = {5, 6, 8, 11, 10, 12, 13};
#define RECENT 12
enum { RECENT_CONTEXTS_COUNT = 12 };
static const int RECENT_CONTEXTS[] = {0, 1, 2, 3, 4, 5, 6, 8, 11, 10, 12, 13};
enum { RECENT_OF_COUNT = 15 };
static const int RECENT_OF[] = {0, 1, 2, 3, 4, 5, 6, -1, 7, -1, 9, 8, 10, 11, -1};
#define MAX_RECENT 32
#define MATCH_CHARACTERS 7
#define HISTORY_MATCH_CHARACTERS 4
#define HISTORY_CHARACTERS 2048
#define BLOCK 64
#define BLOCKS 31
#define MAX_MATCH 64
#define FIELDS 16
#define MAX_DEPTH 8
#define MATCH_AT 0
#define MATCH_LENGTH 1
#define HISTORY_MATCH_DISTANCE 2
#define HISTORY_MATCH_LENGTH 3
#define RESUMED_AT 4
#define RESUMED_QUALITY 5
#define RESUMED_RUN 6
#define WORD_HASH 7
#define WORD_BEFORE 8
#define GAP_HASH 9
#define LETTERS 10
#define LINE_COLUMN 11
#define LINE_LENGTH 12
#define FIELD_NUMBER 13
#define FIELD_HASH 14
#define WORD_BEFORE_THAT 15
#define TOKENS 16
#define LAST_TOKEN 17
#define DEPTH 18
#define BRACKETS 19
#define FIELDS_BEFORE 27
#define FIELDS_NOW 43
#define KEYS 59
#define HISTORY_IDS 74
#define HISTORY_KEYS 1098
#define STATE_COLUMNS 8266
#define MATCH_ID 0
#define MATCH_BUCKET 1
#define HISTORY_MATCH_ID 2
#define HISTORY_MATCH_BUCKET 3
#define RESUMED_ID 4
#define RESUMED_BUCKET 5
#define MATCHES 3
#define FEATURES 6
#define BUCKETS 16
#define BEFORE_0 0
#define BEFORE_1 15
#define RECENT_0 30
#define RECENT_1 42
#define NEWEST 54
#define MATCHED 66
#define COUNT_COLUMNS 69
enum { BACKOFF_CONTEXTS_COUNT = 33 };
static const int BACKOFF_CONTEXTS[] = {0, 1, 2, 3, 4, 0, 9, 8, 1, 10, 11, 0, 1, 2, 5, 3, 6, 4, 7, 0, 1, 14, 13, 12, 10, 9, 8, 13, 12, 11, 5, 6, 7};
enum { BACKOFF_STARTS_COUNT = 7 };
static const int BACKOFF_STARTS[] = {0, 5, 8, 11, 19, 24, 33};
#define BACKOFFS 6
#define BACKOFF_SHARE 0.5
#define RECENT_WEIGHT 8
#define LEARNED_BACKOFF 3
#define LEARNED_FROM 11
#define LEARNED_SHARES 22
#define KNOWN_STATES 64
#define SHARE_STATES 192
enum { DIFFERENT_STEPS_COUNT = 3 };
static const int DIFFERENT_STEPS[] = {5, 9, 16};
enum { COUNT_STEPS_COUNT = 3 };
static const int COUNT_STEPS[] = {6, 16, 64};
enum { PLACE_STEPS_COUNT = 3 };
static const int PLACE_STEPS[] = {5, 9, 20};
#define BY_RECENT 15
#define BY_MATCH 27
#define BY_BACKOFF 30
#define CONSTANT 36
#define BY_NETWORK 37
#define INPUTS 40
#define MAX_COUNT 32767
#define GROUPS 256
enum { SET_STARTS_COUNT = 6 };
static const int SET_STARTS[] = {0, 256, 512, 552, 744, 872};
#define SETS 6
#define WEIGHT_ROWS 1128
#define ODDS_STEPS 24
enum { LAST_STARTS_COUNT = 5 };
static const int LAST_STARTS[] = {0, 256, 296, 552, 576};
#define LAST_SETS 5
#define LAST_ROWS 600
#define PREDICTED 8266
#define SHIFTS 8267
#define CURVATURES 8313
#define PREDICTION 8359
#define MAX_ADAPTED_VOCABULARY 512
#define PRECISION 0
#define LAST_PRECISION 1
#define LIMIT 2
#define ADAPTATION 3
#define CERTAIN_STATES 256
#define MAP_STATES 288
#define RECENT_STATES 98
#define FOLDED 0
#define KIND 1
#define RANK 2
#define BRACKET_KIND 3
#define LINE_END 0
#define SPACE 1
#define LOWER 2
#define UPPER 3
#define DIGIT 4
#define LETTER 5
#define SIGN 6
#define RECORD_END 7
#define OPENING 1
#define CLOSING 2
#define SEPARATOR 3
#define PACK_MAGIC 1751349358
#define PACK_VERSION 1
#define PACK_COUNT_AT 12
#define PACK_CHECKED_FROM 32
#define PACK_HEADER_BYTES 32
#define PACK_ENTRY_BYTES 24
#define PACK_MAX_SECTIONS 256
#define PACK_MAX_V 65536
#define PACK_MAX_UNITS 4096
#define PACK_MAX_TEXT 2000000
#define PACK_MAX_LINES 2000000
#define PACK_IS_WORD 1
#define PACK_TANH_EXPONENT -2.8853900817779268
#define PACK_META 1
#define PACK_NAME 2
#define PACK_POINTS 3
#define PACK_FLAGS 4
#define PACK_WEIGHTS 5
#define PACK_SCALE 6
#define PACK_BASE 7
#define PACK_TEXT 8
#define PACK_CHARACTERS 9
#define PACK_CHILDREN 10
#define PACK_MAPS 11
#define PACK_RECENT_MAPS 12
#define PACK_MATCH_MAPS 13
#define PACK_MIXER_WEIGHTS 14
#define PACK_LAST_WEIGHTS 15
#define PACK_ADAPTATION 16
#define PACK_POSITIONS 17
#define PACK_SLOTS 18
#define PACK_SINGLES 19
#define PACK_ENTRIES 20
#define PACK_UNKNOWN_BITS 21
#define PACK_LINE_STARTS 22
#define PACK_LINE_FOLDED 23
#define PACK_LINE_ALPHABET 24
#define PACK_LINE_WORDS 25
#define PACK_LINE_FOLDS 26
#define PACK_LINE_TEXTS 27
#define PACK_LINE_TEXT_ENDS 28
#define PACK_LINE_COUNTS 29
#define PACK_LINE_MAXIMA 30
#define PACK_LINE_WORD_MAXIMA 31
#define PACK_LINE_WEIGHT 32
#define PACK_SHARES 33
#define PACK_BACKOFFS 34
#define PACK_V 0
#define PACK_LAYERS 1
#define PACK_IS_BYTES 2
#define PACK_STARTS_LINE 3
#define PACK_TEXT_COUNT 4
#define PACK_POSITIONS_COUNT 5
#define PACK_SLOTS_COUNT 6
#define PACK_SINGLES_COUNT 7
#define PACK_ENTRIES_COUNT 8
#define PACK_UNITS 9
#define PACK_META_NUMBERS 17
#define PACK_LAYOUT 1329851724
