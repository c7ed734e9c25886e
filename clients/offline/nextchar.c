/* The runtime of nextchar.h: reads a packed model, steps its network and mixture, and samples.

   It computes what the service's kernels compute (models/kernels), to the bit: sums of integers are exact,
   and floats are rounded after each operation, in the order that is written here and there. So compile it
   without contraction of a * b + c and without reordering (-ffp-contract=off, no -ffast-math).

   In the order of reading: arithmetic; the file; what follows contexts (its tables); the network; what the
   mixture reads; its decisions; prompts and the states that are kept; completions; scores and suggestions. */

#include "nextchar.h"

#include "layout.h"

#if defined(__wasm_simd128__)
#include <wasm_simd128.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

typedef int8_t i8;
typedef uint8_t u8;
typedef int16_t i16;
typedef uint16_t u16;
typedef int32_t i32;
typedef uint32_t u32;
typedef int64_t i64;
typedef uint64_t u64;
typedef float f32;

/* What takes little time is compiled for size in a page. */
#if defined(__wasm__)
#define SMALL __attribute__((minsize))
#define BEGIN_SMALL _Pragma("clang attribute push(__attribute__((minsize)), apply_to = function)")
#define END_SMALL _Pragma("clang attribute pop")
#else
#define SMALL
#define BEGIN_SMALL
#define END_SMALL
#endif

#define copy(to, from, bytes) __builtin_memcpy(to, from, bytes)
#define move(to, from, bytes) __builtin_memmove(to, from, bytes)
#define zero(to, bytes) __builtin_memset(to, 0, bytes)

#define NOT_INLINE __attribute__((noinline))

static const char *last_error = "";

static int failed(const char *why) {
  last_error = why;
  return 0;
}

/* Of a file whose checksum fits: whoever wrote it wrote it wrong. */
static NOT_INLINE int damaged(void) { return failed("the file is damaged: pack the model again"); }

const char *nc_error(void) { return last_error; }

static int min(int a, int b) { return a < b ? a : b; }
static int max(int a, int b) { return a > b ? a : b; }
static f32 minf(f32 a, f32 b) { return a < b ? a : b; }
static f32 maxf(f32 a, f32 b) { return a > b ? a : b; }

/* ---- arithmetic: models/kernels/activations.py and intrinsics.py */

typedef union {
  f32 f;
  i32 i;
} bits32;

#define ROUNDING 12582912.0f /* 1.5 * 2**23: adding it rounds to an integer, held in the lowest bits */

static inline f32 scaled(f32 p, f32 shifted) { /* p times two to the power of the integer in `shifted` */
  bits32 a, b;
  a.f = p;
  b.f = shifted;
  a.i = (i32)((u32)a.i + ((u32)b.i << 23));
  return a.f;
}

static inline f32 exp_(f32 x) {
  x = minf(maxf(x, -87.0f), 88.0f);
  f32 shifted = x * 1.44269504f + ROUNDING;
  f32 n = shifted - ROUNDING;
  f32 r = x - n * 0.693359375f + n * 2.12194440e-4f;
  f32 p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return scaled(p, shifted);
}

static inline f32 exp2_(f32 x) {
  x = minf(maxf(x, -40.0f), 40.0f);
  f32 shifted = x + ROUNDING;
  f32 r = x - (shifted - ROUNDING);
  f32 p = 1.3264727e-3f;
  p = p * r + 9.6715127e-3f;
  p = p * r + 5.5507337e-2f;
  p = p * r + 2.4022242e-1f;
  p = p * r + 6.9314698e-1f;
  p = p * r + 1.0f;
  return scaled(p, shifted);
}

static inline f32 log_(f32 x) { /* of a positive, normal number */
  bits32 a, m_;
  a.f = x;
  f32 e = (f32)((a.i >> 23) - 126);
  m_.i = (a.i & 0x7FFFFF) | 0x3F000000;
  f32 m = m_.f;
  int is_low = m < 0.707106781f;
  e = is_low ? e - 1.0f : e;
  m = is_low ? m + m : m;
  f32 r = m - 1.0f;
  f32 p = 7.0376836292e-2f;
  p = p * r - 1.1514610310e-1f;
  p = p * r + 1.1676998740e-1f;
  p = p * r - 1.2420140846e-1f;
  p = p * r + 1.4249322787e-1f;
  p = p * r - 1.6668057665e-1f;
  p = p * r + 2.0000714765e-1f;
  p = p * r - 2.4999993993e-1f;
  p = p * r + 3.3333331174e-1f;
  f32 square = r * r;
  p = p * r * square;
  p = p + e * -2.12194440e-4f - 0.5f * square;
  return r + p + e * 0.693359375f;
}

static inline f32 sigmoid(f32 x) { return 1.0f / (1.0f + exp_(-x)); }

static f32 dot(const f32 *a, const f32 *b, int count) {
  f32 sums[8] = {0};
  int i = 0;
  for (; i + 8 <= count; i += 8)
    for (int j = 0; j < 8; j++) sums[j] += a[i + j] * b[i + j];
  for (int width = 4; width > 0; width /= 2)
    for (int j = 0; j < width; j++) sums[j] += sums[j + width];
  for (; i < count; i++) sums[0] += a[i] * b[i];
  return sums[0];
}

static u64 equal_mask(const u16 *ids, u16 value) { /* bit k: ids[k] is the value, for k below 64 */
  u64 mask = 0;
#if defined(__wasm_simd128__)
  v128_t wanted = wasm_i16x8_splat((i16)value);
  for (int k = 0; k < 4; k++) {
    v128_t a = wasm_i16x8_eq(wasm_v128_load(ids + 16 * k), wanted);
    v128_t b = wasm_i16x8_eq(wasm_v128_load(ids + 16 * k + 8), wanted);
    mask |= (u64)(u16)wasm_i8x16_bitmask(wasm_i8x16_narrow_i16x8(a, b)) << (16 * k);
  }
#elif defined(__SSE2__)
  __m128i wanted = _mm_set1_epi16((i16)value);
  for (int k = 0; k < 4; k++) {
    __m128i a = _mm_cmpeq_epi16(_mm_loadu_si128((const __m128i *)(const void *)(ids + 16 * k)), wanted);
    __m128i b = _mm_cmpeq_epi16(_mm_loadu_si128((const __m128i *)(const void *)(ids + 16 * k + 8)), wanted);
    mask |= (u64)(u16)_mm_movemask_epi8(_mm_packs_epi16(a, b)) << (16 * k);
  }
#else
  for (int k = 0; k < 64; k++) mask |= (u64)(ids[k] == value) << k;
#endif
  return mask;
}

static int highest_bit(u64 mask) { return 63 - __builtin_clzll(mask); }

static inline u64 mixed(u64 h, u64 x) {
  h = (h ^ x) * 0x9E3779B97F4A7C15u;
  return h ^ (h >> 32);
}

/* ---- the file: docs/reference/pack.md */

#define MAX_LAYERS 8
#define PANEL 32 /* columns of a matrix that are multiplied at once */
#define MAX_STOPS 16
#define MAX_STOP 200
#define MAX_HELD 256 /* characters that a stop string may still cut off; more than MAX_STOP */
#define KEPT 24      /* states of earlier prompts */
#define KEPT_EVERY 64
#define LIST_BITS 9   /* there are lists of keys by so many of their highest bits; more for large vocabularies */
#define DIGIT_BITS 8

typedef struct { /* a layer, or the dense one */
  int inputs;    /* units of the layer below, 0 of the first */
  int units;
  int columns;   /* 4 * units, or V */
  const f32 *scale, *base;
  const i16 *weights; /* (panels, pairs of rows, PANEL, 2) */
} layer;

typedef struct { /* a prompt's beginning that has been read */
  u64 hash;
  u32 length, used;
  f32 *row;
} kept;

typedef struct {
  u32 points[MAX_STOP];
  u16 borders[MAX_STOP];
  int length, matched;
} stop_string;

/* Limits of suggestions, as of models/runtime/suggestions.py, line_index.py and line_search.py. */
enum {
  MAX_PREFIX = 1000, MAX_EXCLUDED = 1000, MAX_LIMIT = 50, MAX_CANDIDATES = 4096, MAX_RANGES = 1 << 14, SEARCH_STACK = 4096,
  COUNT_BLOCK = 64, WEIGHED = 32, CONTINUATION = 16, MORE_WITH_ACCENTS = 16, LONGEST = 1 << 24,
};

typedef struct { /* a line that a prefix may stand for */
  i32 line, errors, matched;
  u32 place, count; /* of what is meant in `folded`; how often the line occurs */
  double penalty, likely, share;
  int begins, order; /* order: of equal ones */
} candidate;

typedef struct {
  i32 lo, hi, errors, matched;
} range;

typedef struct { /* the distinct lines of a corpus: models/text/line_file.py */
  u32 count, folded_count, alphabet_count, words_count, folds_count, texts_bytes;
  int is_wide; /* folded characters have two bytes */
  const void *folded;
  const u32 *alphabet, *starts, *text_ends, *counts, *maxima, *words, *word_maxima;
  const u8 *texts;
  const u32 *folds; /* (folds_count, 4): a code point, its case-folded one, four numbers of two bytes */
  double weight;
  f32 *states, *logits; /* after each character of a continuation, of the network alone */
  range *ranges;
  candidate *found, *others;
  i64 *stack;
} lines;

typedef struct { /* a way to match a mask */
  u32 at;      /* its instruction */
  size_t from; /* where its match begins */
} mask_thread;

typedef struct { /* what replaces values by placeholders: masks.c */
  u32 count, instructions_count, sets_count, rules_count, texts_bytes;
  const u32 *masks;        /* (count, PACK_MASK_NUMBERS) */
  const u32 *instructions; /* (instructions_count, 2) */
  const u32 *sets;         /* (sets_count, 8) */
  const u8 *starts;        /* (3, 256) */
  const u32 *rules;        /* (rules_count, PACK_RULE_NUMBERS); NULL: all values are masked */
  const u8 *texts;
  int is_custom;
  mask_thread *threads, *next;
  u32 *seen, *stack, round;
} masks;

typedef struct { /* n-grams of one length */
  const u16 *ids;              /* of each n-gram the last id */
  const u32 *starts, *counts;  /* where those with the same ids before begin; how often each occurs */
} gram_order;

typedef struct { /* n-grams of characters, or of words: models/text/ngram.py */
  gram_order orders[PACK_NGRAM_ORDER];
  int order;
  double total, followers; /* of those of length 1 */
} ngrams;

typedef struct { /* models/text/templates.py */
  u32 count, tokens_count, common_count;
  const u32 *rows, *tokens, *slots, *values, *common, *text_ends;
  const u8 *texts;
  const double *bits, *missing, *value_bits;
} templates;

typedef struct { /* ascending values, and how many of all are at least each */
  const f32 *values;
  const u32 *counts;
  u32 count;
} ranks;

typedef struct { /* models/anomaly/calibration.py */
  u32 count;
  const double *buckets; /* (count, PACK_BUCKET_NUMBERS) */
  ranks ranks[PACK_MAX_BUCKETS][PACK_MAX_STATISTICS + 1]; /* the last are those of scores */
} calibration;

typedef struct { /* tables that are made of the text part by part, each when it is needed */
  u32 unmade, entries;  /* parts that are not; entries that are used */
  u8 *is_made;
  u32 *keys, *ends;     /* (CONTEXTS + 1, N): see `list_all_keys`; (CONTEXTS, 1 << list_bits) */
  u32 *part, *sorted;   /* (N + 1) each */
  u32 slots_left[1 << MAX_PART_BITS], singles_left[1 << MAX_PART_BITS];
} making;

typedef struct { /* what scores lines: scores.c */
  ngrams characters, words;
  templates templates;
  calibration calibration;
  u32 classes_count, words_count;
  const u32 *classes;   /* the first code point of each run of a class, and the class above 24 bits */
  const u8 *word_texts; /* of words in the order of their bytes */
  const u32 *word_ends, *word_ids;
  u32 *line, *known; /* the code points of a line, and with U+FFFD for those that the model does not know */
} scores;

struct nc {
  /* what the model is */
  const u32 *points; /* (V - 1,) code points of ids from 1 on, ascending */
  const u8 *flags;   /* (V,) */
  const u8 *name;
  u32 name_bytes;
  double unknown_bits; /* of a character outside of the vocabulary */
  int V, nodes, layers, is_bytes, starts_line, has_mixture, adapts, is_filled;
  layer layer[MAX_LAYERS + 1];
  int S;         /* of the network's part of a row */
  int row_floats;
  /* the mixture's */
  const u16 *text;
  const i32 *positions;
  const u32 *slots, *singles, *entries;
  const i32 *characters, *children;
  const f32 *maps, *recent_maps, *match_maps, *weights, *last_weights, *adaptation, *backoffs, *text_shares;
  u8 *tables; /* these four with a header, unless they are in the file */
  size_t tables_bytes;
  making making;
  u64 checksum; /* of the file */
  u32 text_count, positions_count, slots_count, singles_count, entries_count;
  i32 *up;
  /* workspace */
  i16 *x;
  i32 *sums;
  f32 *logits, *shares, *below, *masses, *decisions, *inputs, *outputs, *counts, *picked;
  i32 *touched, *order;
  u8 *is_touched, *decided;
  i32 features[FEATURES], states[CONTEXTS + RECENT + PREDICTIONS], chosen[SETS + LAST_SETS];
  f32 followed[5][CONTEXTS], learned[4][LEARNED_SHARES];
  int has_counts, has_decisions;
  /* the row that is read: the network's h and c, then the mixture's, then the network's logits */
  f32 *row;
  kept kept[KEPT];
  u32 clock;
  int keeps;
  /* the completion */
  u32 max_characters, taken, sent_at;
  u64 key; /* of its random numbers */
  f32 inverse_temperature;
  u32 top_k;
  f32 min_p;
  double top_p, confidence_bits, bits;
  int until, reason, is_in_word, last_id, stops;
  stop_string stop[MAX_STOPS];
  i32 held[MAX_HELD];
  f32 held_bits[MAX_HELD];
  lines lines;
  masks masks;
  scores scores;
  int held_count, settled; /* of which so many are not cut off any more */
};

/* Return a section of the file, NULL if there is none. */
SMALL static const void *section(const u8 *file, u32 type, u32 index, u64 *bytes) {
  u32 count;
  copy(&count, file + PACK_COUNT_AT, 4);
  for (u32 i = 0; i < count; i++) {
    const u8 *entry = file + PACK_HEADER_BYTES + (size_t)i * PACK_ENTRY_BYTES;
    u32 own[2];
    u64 place[2];
    copy(own, entry, 8);
    copy(place, entry + 8, 16);
    if (own[0] == type && own[1] == index) {
      *bytes = place[1];
      return file + place[0];
    }
  }
  *bytes = 0;
  return 0;
}

/* Return a section of so many bytes, or NULL. */
SMALL static const void *exactly(const u8 *file, u32 type, u32 index, u64 wanted) {
  u64 bytes;
  const void *found = section(file, type, index, &bytes);
  return found && bytes == wanted ? found : 0;
}

SMALL static int is_finite(const f32 *numbers, u64 count) {
  int is_good = 1;
  for (u64 i = 0; i < count; i++) is_good &= numbers[i] < 1e30f && numbers[i] > -1e30f;
  return is_good;
}

/* Browsers run the first calls of a function slowly: so what takes long is many calls, each of AT_ONCE. */
#define AT_ONCE 1024

/* The sum of hashes of all 64-bit words from a place on, and of their places. */
SMALL static NOT_INLINE u64 checksum(const u8 *file, size_t at, size_t size) {
  u64 sum = 0, word;
  for (; size - at > 8 * AT_ONCE; at += 8 * AT_ONCE) sum += checksum(file, at, at + 8 * AT_ONCE);
  for (; at + 8 <= size; at += 8) {
    copy(&word, file + at, 8);
    u64 h = (word ^ ((u64)at * 0x9E3779B97F4A7C15u)) * 0xD1B54A32D192ED03u;
    sum += h ^ (h >> 32);
  }
  return sum;
}

/* Check the header, the table of sections and the checksum. */
SMALL static int is_file(const u8 *file, size_t size) {
  u32 numbers[4]; /* magic, version, layout, sections */
  u64 sum, length;
  if (size < PACK_HEADER_BYTES || size % 8) return failed("it is no packed model, or cut off");
  copy(numbers, file, 16);
  copy(&length, file + 16, 8);
  copy(&sum, file + 24, 8);
  if (numbers[0] != PACK_MAGIC) return failed("it is no packed model");
  if (numbers[1] < 1 || numbers[1] > PACK_VERSION || numbers[2] != PACK_LAYOUT)
    return failed("it was packed for another version of this runtime: pack the model again");
  if (length != size) return failed("the file is cut off, or has something after its end");
  if (numbers[3] > PACK_MAX_SECTIONS || PACK_HEADER_BYTES + (u64)numbers[3] * PACK_ENTRY_BYTES > size)
    return damaged();
  if (sum != checksum(file, PACK_CHECKED_FROM, size)) return failed("the file is damaged: its checksum differs");
  for (u32 i = 0; i < numbers[3]; i++) {
    u64 place[2];
    copy(place, file + PACK_HEADER_BYTES + (size_t)i * PACK_ENTRY_BYTES + 8, 16);
    if (place[0] % 8 || place[0] > size || place[1] > size - place[0])
      return damaged();
  }
  return 1;
}

/* A hash table has parts by the highest bits of keys, each of which is probed by itself. */
static int part_bits(u32 count) { return max(0, min(MAX_PART_BITS, highest_bit(count) - PART_SLOT_BITS)); }
static int made_bits(const nc *m) { return min(part_bits(m->slots_count), part_bits(m->singles_count)); }

/* Memory is divided from the front; with no memory only its size is counted. */
typedef struct room {
  u8 *at;
  u64 used, size;
} room;

SMALL static void *take(room *room, u64 count, u64 bytes) {
  u64 start = (room->used + 15) & ~(u64)15;
  if (count > (u64)1 << 40 || room->used > (u64)1 << 50) count = 0, room->used = (u64)1 << 60;
  else room->used = start + count * bytes;
  return room->at && room->used <= room->size ? room->at + start : 0;
}

static int lay_out_lines(nc *m, const u8 *file, room *room);
static int check_lines(nc *m);
static int lay_out_masks(masks *m, const u8 *file, room *room);
static int lay_out_scores(scores *s, const u8 *file, room *room);

/* Take from the file what the model is, and from the room the arrays that it needs. */
SMALL static int lay_out(nc *m, const u8 *file, room *room) {
  u64 bytes;
  const u32 *meta = exactly(file, PACK_META, 0, 4 * PACK_META_NUMBERS);
  if (!meta) return damaged();
  u32 V = meta[PACK_V], layers = meta[PACK_LAYERS];
  if (V < 2 || V > PACK_MAX_V || layers < 1 || layers > MAX_LAYERS) return failed("the network is too large");
  m->V = (int)V, m->layers = (int)layers, m->nodes = (int)V - 2;
  m->is_bytes = meta[PACK_IS_BYTES] != 0, m->starts_line = meta[PACK_STARTS_LINE] != 0;
  m->name = section(file, PACK_NAME, 0, &bytes);
  m->name_bytes = m->name ? (u32)(bytes < 256 ? bytes : 256) : 0;
  m->points = exactly(file, PACK_POINTS, 0, 4 * (u64)(V - 1));
  m->flags = exactly(file, PACK_FLAGS, 0, V);
  if (!m->points || !m->flags) return damaged();
  for (u32 i = 0; i < V - 1; i++)
    if (m->points[i] > 0x10FFFF || (i && m->points[i] <= m->points[i - 1]))
      return damaged();

  const double *unknown_bits = exactly(file, PACK_UNKNOWN_BITS, 0, 8);
  m->unknown_bits = unknown_bits && *unknown_bits >= 0 && *unknown_bits < 100 ? *unknown_bits : 24;

  int below = 0, widest = 0, columns_most = 0;
  m->S = 0;
  for (int n = 0; n <= m->layers; n++) {
    layer *l = &m->layer[n];
    int is_dense = n == m->layers;
    u32 units = is_dense ? V : meta[PACK_UNITS + n];
    if (!is_dense && (units < 1 || units > PACK_MAX_UNITS)) return failed("the network is too large");
    l->inputs = below, l->units = (int)units, l->columns = is_dense ? (int)V : 4 * (int)units;
    u64 rows = (u64)below + (is_dense ? 0 : units), columns = (u64)l->columns;
    l->scale = exactly(file, PACK_SCALE, (u32)n, 4 * columns);
    l->base = exactly(file, PACK_BASE, (u32)n, 4 * columns * (n == 0 ? V : 1));
    if (!l->scale || !l->base || !exactly(file, PACK_WEIGHTS, (u32)n, rows * columns))
      return damaged();
    if (room->at && (!is_finite(l->scale, columns) || !is_finite(l->base, columns * (n == 0 ? V : 1))))
      return damaged();
    u64 panels = (columns + PANEL - 1) / PANEL;
    l->weights = take(room, panels * ((rows + 1) / 2), PANEL * 2 * sizeof(i16));
    widest = max(widest, (int)rows);
    columns_most = max(columns_most, (int)(panels * PANEL));
    if (!is_dense) m->S += 2 * (int)units;
    below = (int)units;
  }
  m->x = take(room, (u64)widest + 2, sizeof(i16));
  m->sums = take(room, (u64)columns_most, sizeof(i32));
  m->logits = take(room, V, sizeof(f32));
  m->picked = take(room, V, sizeof(f32));
  m->order = take(room, V, sizeof(i32));

  m->has_mixture = meta[PACK_TEXT_COUNT] > 0;
  if (m->has_mixture) {
    u64 nodes = (u64)m->nodes;
    m->text_count = meta[PACK_TEXT_COUNT], m->positions_count = meta[PACK_POSITIONS_COUNT];
    m->slots_count = meta[PACK_SLOTS_COUNT], m->singles_count = meta[PACK_SINGLES_COUNT];
    m->entries_count = meta[PACK_ENTRIES_COUNT];
    if (m->text_count > PACK_MAX_TEXT || !m->slots_count || !m->singles_count || !m->entries_count ||
        !m->positions_count || m->positions_count & (m->positions_count - 1) ||
        (m->slots_count | m->singles_count | m->entries_count | m->positions_count) >> 28 ||
        m->slots_count % (1u << part_bits(m->slots_count)) || m->singles_count % (1u << part_bits(m->singles_count)))
      return damaged();
    m->characters = exactly(file, PACK_CHARACTERS, 0, 12 * (u64)V);
    m->children = exactly(file, PACK_CHILDREN, 0, 8 * nodes);
    m->maps = exactly(file, PACK_MAPS, 0, 4 * CONTEXTS * MAP_STATES);
    m->recent_maps = exactly(file, PACK_RECENT_MAPS, 0, 4 * RECENT * RECENT_STATES);
    m->match_maps = exactly(file, PACK_MATCH_MAPS, 0, 4 * MATCH_STATES);
    m->weights = exactly(file, PACK_MIXER_WEIGHTS, 0, 4 * (u64)WEIGHT_ROWS * INPUTS);
    m->last_weights = exactly(file, PACK_LAST_WEIGHTS, 0, 4 * (u64)LAST_ROWS * SETS);
    m->adaptation = exactly(file, PACK_ADAPTATION, 0, 4 * ADAPTATION);
    m->backoffs = exactly(file, PACK_BACKOFFS, 0, 4 * LEARNED_SHARES * SHARE_STATES);
    m->text_shares = exactly(file, PACK_SHARES, 0, 8 * nodes);
    if (!m->characters || !m->children || !m->maps || !m->recent_maps || !m->match_maps || !m->weights ||
        !m->last_weights || !m->adaptation || !m->backoffs || !m->text_shares)
      return damaged();
    m->adapts = m->adaptation[PRECISION] > 0;
    m->up = take(room, V + nodes, sizeof(i32));
    m->touched = take(room, nodes + 1, sizeof(i32));
    m->is_touched = take(room, nodes + 1, 1);
    m->decided = take(room, nodes + 1, 1);
    m->counts = take(room, nodes + 1, sizeof(f32) * COUNT_COLUMNS);
    m->inputs = take(room, nodes + 1, sizeof(f32) * INPUTS);
    m->outputs = take(room, nodes + 1, sizeof(f32) * SETS);
    m->decisions = take(room, nodes + 1, sizeof(f32));
    m->shares = take(room, V, sizeof(f32));
    m->below = take(room, 2 * (nodes + 1), sizeof(f32));
    m->masses = take(room, nodes + 1, sizeof(f32));
  }
  if (!lay_out_lines(m, file, room) || !lay_out_masks(&m->masks, file, room) ||
      !lay_out_scores(&m->scores, file, room))
    return 0;
  m->row_floats = m->S + (m->has_mixture ? PREDICTION : 0) + (int)V;
  m->row = take(room, (u64)m->row_floats, sizeof(f32));
  for (int k = 0; k < KEPT; k++) m->kept[k].row = take(room, (u64)m->row_floats, sizeof(f32));
  return 1;
}

/* Check what the kernels would read beyond arrays by, and make the way up the tree. */
SMALL static int check_tree(nc *m) {
  for (int c = 0; c < m->V; c++) {
    const i32 *own = m->characters + 3 * c;
    if (own[KIND] < 0 || own[KIND] > RECORD_END || own[FOLDED] < 0 || own[BRACKET_KIND] < 0) return damaged();
  }
  for (int i = 0; i < m->V + m->nodes; i++) m->up[i] = -1;
  for (int i = 0; i < 2 * m->nodes; i++) {
    int child = m->children[i];
    if (child <= -m->V || child >= m->nodes || child == 0 || (child > 0 && child <= i / 2))
      return damaged();
    i32 *own = &m->up[child > 0 ? m->V + child : -child];
    if (*own != -1) return damaged();
    *own = i;
  }
  /* Each of the 2 * nodes children is another one; there are as many ids and nodes, besides the root. */
  return 1;
}

/* Write a panel of a layer's weights. */
SMALL static NOT_INLINE void widen_panel(const layer *l, int rows, const i8 *from, int first, i16 *to) {
  for (int k = 0; k < rows + rows % 2; k++)
    for (int j = first; j < first + PANEL; j++)
      to[(k / 2 * PANEL + j - first) * 2 + k % 2] =
          k < rows && j < l->columns ? from[(size_t)k * (size_t)l->columns + (size_t)j] : 0;
}

SMALL static void widen_weights(nc *m, const u8 *file) {
  for (int n = 0; n <= m->layers; n++) {
    layer *l = &m->layer[n];
    int rows = l->inputs + (n == m->layers ? 0 : l->units);
    const i8 *from = exactly(file, PACK_WEIGHTS, (u32)n, (u64)rows * (u64)l->columns);
    i16 *to = (i16 *)(size_t)l->weights;
    for (int first = 0; first < l->columns; first += PANEL, to += (rows + 1) / 2 * 2 * PANEL)
      widen_panel(l, rows, from, first, to);
  }
}

/* The mixture's text and tables: those of the file, those that are given, or taken from the room to be made. */
static int lay_out_tables(nc *m, const u8 *file, room given, room *room);
SMALL static int fill_tables(nc *m, const u8 *file);

SMALL static size_t count_memory(const u8 *file, room given) {
  nc counted = {0};
  room room = {0, 0, 0};
  take(&room, 1, sizeof(nc));
  if (!lay_out(&counted, file, &room) || !lay_out_tables(&counted, file, given, &room)) return 0;
  if (room.used > (u64)1 << 31) return (size_t)failed("the model takes too much memory");
  return (size_t)room.used;
}

#ifndef __wasm__
size_t nc_memory(const void *file, size_t size) {
  room none = {0, 0, 0};
  if ((size_t)file & 7) return (size_t)failed("memory is not aligned");
  return is_file(file, size) ? count_memory(file, none) : 0;
}
#endif

/* Open a file and tables that have been checked. */
SMALL static nc *open_checked(const u8 *file, room given, void *memory, size_t memory_size) {
  room room = {memory, 0, memory_size};
  nc *m = take(&room, 1, sizeof(nc));
  if (!m) return failed("too little memory"), (nc *)0;
  zero(m, sizeof(nc));
  if (!lay_out(m, file, &room) || !lay_out_tables(m, file, given, &room)) return 0;
  if (room.used > room.size) return failed("too little memory"), (nc *)0;
  if (m->has_mixture && (!check_tree(m) || !fill_tables(m, file))) return 0;
  if (m->lines.count && !check_lines(m)) return 0;
  widen_weights(m, file);
  nc_forget(m);
  m->keeps = 1, m->reason = NC_LENGTH;
  return m;
}

typedef struct { /* of tables that are kept outside of a file */
  u64 file, size, sum; /* the file's checksum, their bytes with this, their checksum */
  u32 layout, unused;
} tables_header;

/* Return the tables, if they are those of the file, or no room. */
SMALL static room tables_of(const u8 *file, const void *tables, size_t size) {
  room found = {(u8 *)(size_t)tables, 0, size}, none = {0, 0, 0};
  tables_header header;
  u64 sum;
  if (!tables || ((size_t)tables & 15) || size < sizeof header) return none;
  copy(&header, tables, sizeof header);
  copy(&sum, file + PACK_CHECKED_FROM - 8, 8);
  int is_same = header.file == sum && header.layout == PACK_LAYOUT && header.size == size;
  return is_same && header.sum == checksum(tables, PACK_CHECKED_FROM, size) ? found : none;
}

#ifndef __wasm__
nc *nc_open(const void *file, size_t size, const void *tables, size_t tables_size, void *memory,
            size_t memory_size) {
  if (!memory || ((size_t)file & 7) || ((size_t)memory & 15)) return failed("memory is not aligned"), (nc *)0;
  if (!is_file(file, size)) return 0;
  return open_checked(file, tables_of(file, tables, tables_size), memory, memory_size);
}
#endif

SMALL const void *nc_tables(nc *m, size_t *size) {
  tables_header header = {m->checksum, m->tables_bytes, 0, PACK_LAYOUT, 0};
  *size = m->tables_bytes;
  if (!m->tables) return 0;
  while (nc_make(m)) {}
  header.sum = checksum(m->tables, PACK_CHECKED_FROM, m->tables_bytes);
  copy(m->tables, &header, sizeof header);
  return m->tables;
}

/* ---- what followed contexts: models/kernels/mixture_hashes.py, mixture_contexts.py and mixture_tables.py */

static inline u64 loaded(i32 number) { return (u32)number; }
static inline u64 extended(i32 number) { return (u64)(i64)number; }
static inline i32 stored(u64 h) { return (i32)(u32)h; }
static inline u64 start(int context) { return mixed((u64)context, 0); }

static u64 hash_of(const u16 *ids, i64 end) {
  u64 h = 0;
  for (int j = 0; j < MATCH_CHARACTERS; j++) h = mixed(h, ids[end - 1 - j]);
  return h;
}

static inline u32 slot_of(u64 key, u32 count) { return (u32)((key * count) >> 32); }

SMALL static int place_bits(const nc *m) { return 1 + highest_bit(m->entries_count); }

static inline u32 slot_after(u32 at, u64 key, u32 count) {
  int bits = part_bits(count);
  u32 size = count >> bits, end = ((u32)(key >> (32 - bits)) + 1) * size;
  return at + 1 < end ? at + 1 : end - size;
}

static void make_part(nc *m, u32 p);

/* Make what is known of a key, if it is not made. */
static inline void need(nc *m, u64 key) {
  if (m->making.unmade) make_part(m, (u32)(key >> (32 - made_bits(m))));
}

/* Where the entries of a context begin, or -1. */
static i64 entries_of(nc *m, i32 stored_key) {
  u64 key = loaded(stored_key);
  int bits = place_bits(m);
  u32 check = (u32)(key << bits), at = slot_of(key, m->slots_count);
  need(m, key);
  for (u32 n = 0; n < m->slots_count && m->slots[at]; n++) {
    u32 slot = m->slots[at];
    if ((slot >> bits) << bits == check) {
      i64 place = (i64)(slot ^ check) - 1;
      return place >= 0 && place < m->entries_count ? place : -1;
    }
    at = slot_after(at, key, m->slots_count);
  }
  return -1;
}

/* The id that followed a context once, or 0. */
static int single_of(const nc *m, i32 stored_key) {
  u64 key = loaded(stored_key);
  u32 at = slot_of(key, m->singles_count);
  for (u32 n = 0; n < m->singles_count && m->singles[at]; n++) {
    if (m->singles[at] >> 16 == (key & 0xFFFF)) return (int)(m->singles[at] & 0xFFFF);
    at = slot_after(at, key, m->singles_count);
  }
  return 0;
}

static void read_word(i32 *row, int c, int kind, int folded) {
  int is_in_word = row[WORD_HASH] != 0;
  if (kind == LOWER || kind == UPPER || kind == LETTER || (kind == DIGIT && is_in_word)) {
    u64 word = loaded(row[WORD_HASH]);
    if (row[GAP_HASH] != 0 || !is_in_word) {
      if (is_in_word) row[WORD_BEFORE_THAT] = row[WORD_BEFORE], row[WORD_BEFORE] = row[WORD_HASH];
      word = 1;
      row[GAP_HASH] = 0, row[LETTERS] = 0;
    }
    row[WORD_HASH] = stored(mixed(word, (u64)folded));
    row[LETTERS] += 1;
  } else {
    row[GAP_HASH] = stored(mixed(loaded(row[GAP_HASH]), (u64)c + 1));
    row[LETTERS] = 0;
  }
}

/* Of a table fields are cells. */
SMALL static void read_field(i32 *row, int c, int kind, int before, int mark, int is_table) {
  int is_line_end = kind == LINE_END || kind == RECORD_END;
  row[LINE_COLUMN] += 1;
  row[QUOTED] = !is_line_end && row[QUOTED] ^ (mark == QUOTE);
  int is_end = is_table ? mark == DELIMITER && !row[QUOTED] : kind == SPACE || (kind == SIGN && before != c);
  if (!is_line_end && !is_end) {
    row[FIELD_HASH] = stored(mixed(loaded(row[FIELD_HASH]), (u64)c + 1));
    return;
  }
  if (is_table || !is_line_end) row[FIELDS_NOW + min(row[FIELD_NUMBER], FIELDS - 1)] = row[FIELD_HASH];
  row[FIELD_NUMBER] += 1;
  row[FIELD_HASH] = stored(mixed(start(FIELD), (u64)c + 1));
  if (is_line_end) {
    row[ABOVE_DISTANCE] = row[LINE_COLUMN], row[LINE_COLUMN] = 0;
    copy(row + FIELDS_BEFORE, row + FIELDS_NOW, 4 * FIELDS);
    copy(row + STARTS_BEFORE, row + STARTS_NOW, 4 * FIELDS);
    zero(row + FIELDS_NOW, 4 * FIELDS);
    zero(row + STARTS_NOW, 4 * FIELDS);
    row[FIELD_NUMBER] = 0;
    if (!is_table) row[FIELD_HASH] = 0;
  }
  if (is_table) {
    int at = min(row[FIELD_NUMBER], FIELDS - 1), above = row[STARTS_BEFORE + at];
    row[STARTS_NOW + at] = row[READ];
    row[ABOVE_DISTANCE] = above > 0 ? row[READ] - above : 0;
    row[LINE_COLUMN] = 0;
  }
}

static void read_token(i32 *row, int c, int kind) {
  int last = row[LAST_TOKEN], now = 0;
  if (kind == SIGN) now = 4 + (c & 15);
  else if (kind != SPACE)
    now = kind == LINE_END || kind == RECORD_END ? 1 : kind == DIGIT && last != 2 ? 3 : 2;
  if (now > 3 || (now > 0 && now != last))
    row[TOKENS] = (i32)((((u32)row[TOKENS] << 5) | (u32)now) & 0x3FFFFFFF);
  row[LAST_TOKEN] = now;
}

static void read_bracket(i32 *row, int c, int kind) {
  int depth = row[DEPTH];
  if (kind == OPENING) {
    if (depth == MAX_DEPTH) {
      depth -= 1;
      for (int i = 0; i < MAX_DEPTH - 1; i++) row[BRACKETS + i] = row[BRACKETS + i + 1];
    }
    row[BRACKETS + depth] = stored(mixed(loaded(row[WORD_HASH]), (u64)c + 1));
    row[DEPTH] = depth + 1;
  } else if (depth > 0 && kind == CLOSING) {
    row[DEPTH] = depth - 1;
  } else if (depth > 0 && kind == SEPARATOR) {
    row[BRACKETS + depth - 1] = stored(mixed(loaded(row[BRACKETS + depth - 1]), (u64)c + 1));
  }
}

/* `end` is where the characters that were read end, of which there are KEY_CHARACTERS or zeros. */
static NOT_INLINE void write_order_keys(i32 *row, const u16 *end) {
  u64 h = start(CONTEXTS);
  for (int k = 0, n = 0; k < ORDERS_COUNT; k++) {
    for (; n < ORDERS[k]; n++) h = mixed(h, (u64)end[-1 - n] + 1);
    row[KEYS + k] = stored(h);
  }
}

static const u16 *block_of(const u16 *end, int block) { return end - 1 - (block + 1) * BLOCK; }
static int read_blocks(const i32 *row) { return min((int)((u32)row[READ] / BLOCK + 1), BLOCKS); }

static u64 pairs_of(const u16 *end, int block) {
  u16 c0 = end[-1], c1 = end[-2];
  if (c0 == 0 || c1 == 0) return 0;
  const u16 *first = block_of(end, block);
  return equal_mask(first, c0) & equal_mask(first - 1, c1);
}

static u64 followers_of(const u16 *end) {
  u64 h = 0;
  for (int block = 0, times = 0; block < KEY_BLOCKS && times < 2; block++)
    for (u64 mask = pairs_of(end, block); mask && times < 2; times++) {
      int k = highest_bit(mask);
      mask ^= (u64)1 << k;
      h = mixed(h, (u64)block_of(end, block)[k + 1] + 1);
    }
  return h;
}

SMALL static void write_other_keys(i32 *row, const u16 *end, int is_table, u64 followers) {
  u64 word = mixed(mixed(start(WORD), extended(row[WORD_HASH])), extended(row[GAP_HASH]));
  row[KEYS + WORD] = stored(word);
  u64 words = mixed(word, extended(row[WORD_BEFORE]));
  row[KEYS + WORDS] = stored(words);
  row[KEYS + WORDS_BEFORE] = stored(mixed(mixed(words, extended(row[WORD_BEFORE_THAT])), 1));
  int column = row[LINE_COLUMN], distance = row[ABOVE_DISTANCE];
  int above = column < distance && distance <= KEY_CHARACTERS ? end[-distance] : 0;
  int after = column + 1 < distance && distance < KEY_CHARACTERS ? end[1 - distance] : 0;
  u64 capped = (u64)min(column, 255);
  row[KEYS + COLUMN] = stored(mixed(mixed(mixed(start(COLUMN), (u64)above), (u64)after), capped));
  int length = is_table ? row[FIELD_NUMBER] : min(row[LETTERS], 15);
  u64 layout = mixed(mixed(start(LAYOUT), capped), (u64)length);
  row[KEYS + LAYOUT] = stored(mixed(layout, (u64)row[LAST_TOKEN]));
  row[KEYS + FIELD] = stored(mixed(mixed(start(FIELD), (u64)row[FIELD_NUMBER]), extended(row[FIELD_HASH])));
  i32 field = row[FIELDS_BEFORE + min(row[FIELD_NUMBER], FIELDS - 1)];
  row[KEYS + FIELD_ABOVE] = stored(mixed(mixed(start(FIELD_ABOVE), extended(field)), extended(row[FIELD_HASH])));
  u64 token = row[GAP_HASH] == 0 ? loaded(row[WORD_HASH]) : mixed(loaded(row[GAP_HASH]), 1);
  i32 bracket = row[DEPTH] > 0 ? row[BRACKETS + row[DEPTH] - 1] : 0;
  row[KEYS + BRACKET] = stored(mixed(mixed(start(BRACKET), extended(bracket)), token));
  u64 tokens = mixed(mixed(start(SHAPE), (u64)row[TOKENS]), (u64)row[LAST_TOKEN]);
  row[KEYS + SHAPE] = stored(mixed(tokens, token));
  row[KEYS + INDIRECT] = stored(mixed(mixed(start(INDIRECT), followers), (u64)end[-1] + 1));
}

/* Follow what the row has of id c, the last of `past`, after `before`. */
SMALL static void follow(const i32 *characters, i32 *row, int before, int c) {
  const i32 *own = characters + 3 * c;
  read_word(row, c, own[KIND], own[FOLDED]);
  read_field(row, c, own[KIND], before, own[BRACKET_KIND], characters[BRACKET_KIND]);
  read_token(row, c, own[KIND]);
  read_bracket(row, c, own[BRACKET_KIND]);
}

/* A key and the id that followed are one number: the id in the lowest bits, which have room for it as the highest bits
   of the key are those of the list that the number is in. */
static int id_bits(const nc *m) { return 1 + highest_bit((u64)m->V - 1); }
static int list_bits(const nc *m) { return max(LIST_BITS, id_bits(m)); }

SMALL static int lay_out_tables(nc *m, const u8 *file, room given, room *room) {
  struct room *own = given.at ? &given : room;
  if (!m->has_mixture) return 1;
  u64 N = m->text_count;
  m->text = exactly(file, PACK_TEXT, 0, 2 * N);
  if (!m->text && !exactly(file, PACK_TEXT, 0, N)) return damaged();
  if (!m->text) m->text = take(room, N, sizeof(u16));
  m->positions = exactly(file, PACK_POSITIONS, 0, 4 * (u64)m->positions_count);
  m->slots = exactly(file, PACK_SLOTS, 0, 4 * (u64)m->slots_count);
  m->singles = exactly(file, PACK_SINGLES, 0, 4 * (u64)m->singles_count);
  m->entries = exactly(file, PACK_ENTRIES, 0, 4 * (u64)m->entries_count);
  if (m->positions && m->slots && m->singles && m->entries) return m->is_filled = 1;
  copy(&m->checksum, file + PACK_CHECKED_FROM - 8, 8);
  m->tables = take(own, 1, sizeof(tables_header));
  u64 start = own->used - sizeof(tables_header);
  m->positions = take(own, m->positions_count, sizeof(i32));
  m->slots = take(own, m->slots_count, sizeof(u32));
  m->singles = take(own, m->singles_count, sizeof(u32));
  m->entries = take(own, m->entries_count, sizeof(u32));
  take(own, 0, 8);
  m->tables_bytes = (size_t)(own->used - start);
  m->is_filled = given.at != 0;
  if (m->is_filled) return given.used == given.size ? 1 : failed("the tables are of another model");
  m->making.is_made = take(room, 1 << MAX_PART_BITS, 1);
  m->making.keys = take(room, N, sizeof(u32) * (CONTEXTS + 1));
  m->making.ends = take(room, CONTEXTS, sizeof(u32) << list_bits(m));
  m->making.part = take(room, N + 1, sizeof(u32));
  m->making.sorted = take(room, N + 1, sizeof(u32));
  return 1;
}

typedef struct { /* what has been read of the text whose keys are written */
  u16 window[2 * KEY_CHARACTERS];
  i32 row[HISTORY_IDS];
  int at, fresh; /* where the past begins in the window, and how many ids it has */
  u32 pairs[1 << 16][2]; /* where pairs of ids were last, and before that; the same: not known */
} reader;

/* Return `followers_of` the past of id i of the text, which ends at `end`. Pairs in one place of the table are
   searched for. */
static u64 noted_followers(const u16 *text, u32 i, const u16 *end, reader *r) {
  u32 c0 = end[-1], c1 = end[-2];
  if (c0 == 0 || c1 == 0) return 0;
  u32 *own = r->pairs[(c1 << 8 ^ c0) & 0xFFFF], last = own[0], other = own[1];
  int is_other = last && (text[last] != c0 || text[last - 1] != c1);
  u64 h = 0;
  own[0] = i, own[1] = is_other ? i : last;
  if (is_other || (last && last == other)) return followers_of(end);
  u32 farthest = (u32)min(r->fresh - 2, KEY_BLOCKS * BLOCK);
  if (last && i - last <= farthest) h = mixed(h, (u64)text[last + 1] + 1);
  if (other && i - other <= farthest) h = mixed(h, (u64)text[other + 1] + 1);
  return h;
}

/* Write the keys before some characters. */
static NOT_INLINE void write_some_keys(const nc *m, reader *r, u32 from, u32 to, u32 *keys) {
  for (u32 i = from; i < to; i++) {
    int c = m->text[i];
    for (int k = 0; k < CONTEXTS; k++) keys[(size_t)k * m->text_count + i] = (u32)r->row[KEYS + k];
    if (m->characters[3 * c + KIND] == RECORD_END) {
      zero(r->row, sizeof r->row);
      zero(r->window + r->at + KEY_CHARACTERS - r->fresh, 2 * (size_t)r->fresh);
      r->fresh = 0;
    }
    if (r->at == KEY_CHARACTERS) {
      copy(r->window, r->window + r->at, 2 * KEY_CHARACTERS);
      r->at = 0;
    }
    u16 *end = r->window + r->at + KEY_CHARACTERS;
    *end = (u16)c;
    r->at += 1;
    r->fresh = min(r->fresh + 1, KEY_CHARACTERS);
    r->row[READ] += 1;
    follow(m->characters, r->row, end[-1], c);
    write_order_keys(r->row, end + 1);
    write_other_keys(r->row, end + 1, m->characters[BRACKET_KIND], noted_followers(m->text, i, end + 1, r));
  }
}

/* Turn counts into where each part begins. */
SMALL static void add_up(u32 *starts, u32 count) {
  for (u32 d = 0, sum = 0; d < count; d++) {
    u32 own = starts[d];
    starts[d] = sum;
    sum += own;
  }
}

static NOT_INLINE void count_keys(const u32 *keys, u32 count, int bits, u32 *counts) {
  for (u32 i = 0; i < count; i++) counts[keys[i] >> (32 - bits)]++;
}

/* Put keys, with what followed, into lists by the keys' highest bits, whose starts move to their ends. */
static NOT_INLINE void list_keys(const u32 *keys, const u16 *followed, u32 count, int bits, u32 *ends, u32 *lists) {
  for (u32 i = 0; i < count; i++) lists[ends[keys[i] >> (32 - bits)]++] = keys[i] << bits | followed[i];
}

/* Take from a list the numbers whose first bits, `bits` of them, are these; return how many. */
static NOT_INLINE u32 take_listed(const u32 *list, u32 count, int bits, u32 first, u32 *taken) {
  u32 found = 0;
  for (u32 i = 0; i < count; i++) {
    taken[found] = list[i];
    found += (u64)list[i] >> (32 - bits) == first;
  }
  return found;
}

/* Move numbers of this distance in place, from the first to the last. Return 0 if that takes too many moves. */
static int insert_all(u32 *numbers, u32 count, u32 distance, u64 max_moves) {
  for (u32 i = distance; i < count; i++) {
    u32 own = numbers[i], j = i;
    for (; j >= distance && numbers[j - distance] > own; j -= distance) numbers[j] = numbers[j - distance];
    numbers[j] = own;
    if (i - j > max_moves) return 0;
    max_moves -= i - j;
  }
  return 1;
}

/* Order numbers by `bits` bits after the first `from`, and otherwise as they were. */
SMALL static NOT_INLINE void order_by(int from, int bits, const u32 *numbers, u32 count, u32 *ordered) {
  static u32 ends[1 << 16];
  zero(ends, (size_t)4 << bits);
  for (u32 i = 0; i < count; i++) ends[numbers[i] << from >> (32 - bits)]++;
  add_up(ends, (u32)1 << bits);
  for (u32 i = 0; i < count; i++) ordered[ends[numbers[i] << from >> (32 - bits)]++] = numbers[i];
}

/* Sort numbers of which the first bits, `bits` of them, are the same; return where they are then, here or there. */
static u32 *sort_part(const nc *m, int bits, u32 *numbers, u32 count, u32 *other) {
  if (count >> id_bits(m)) { /* the same key often */
    order_by(32 - id_bits(m), id_bits(m), numbers, count, other);
    order_by(bits, DIGIT_BITS, other, count, numbers);
    other = numbers;
  } else if (count < 64) {
    other = numbers;
  } else {
    order_by(bits, DIGIT_BITS, numbers, count, other);
  }
  if (insert_all(other, count, 1, 16 * (u64)count)) return other; /* most are in order */
  for (u32 distance = count / 2; distance > 0; distance = distance > 2 ? (u32)(distance / 2.2) : distance - 1)
    insert_all(other, count, distance, ~(u64)0); /* Shell 1959 */
  return other;
}

/* Put a number into a part of a hash table. Of a full one the last place stays free; the others are left out. */
static void insert(u32 *slots, u32 count, u32 *left, u64 key, u32 number) {
  u32 *own = &left[key >> (32 - part_bits(count))], at = slot_of(key, count);
  if (!*own) return;
  *own -= 1;
  while (slots[at]) at = slot_after(at, key, count);
  slots[at] = number;
}

/* Count what followed the contexts of one kind, whose keys have the highest bits `high`. */
SMALL static NOT_INLINE void count_sorted(nc *m, const u32 *sorted, u32 count, u64 high, int is_rare) {
  u32 *entries = (u32 *)(size_t)m->entries;
  making *made = &m->making;
  int bits = place_bits(m), own_bits = list_bits(m);
  u32 ids = ((u32)1 << own_bits) - 1;
  for (u32 i = 0; i < count;) {
    u32 low = sorted[i] >> own_bits, begin = i, used = made->entries;
    u64 key = high | low;
    while (i < count && sorted[i] >> own_bits == low) {
      u32 own = sorted[i], id = own & ids, first = i;
      do i++;
      while (i < count && sorted[i] == own);
      if (id && key) {
        if (used < m->entries_count)
          entries[used] = (i - first < MAX_COUNT ? i - first : MAX_COUNT) << 16 | id;
        used += 1;
      }
    }
    if (i - begin == 1) {
      u32 id = sorted[begin] & ids;
      if (id && key && !is_rare)
        insert((u32 *)(size_t)m->singles, m->singles_count, made->singles_left, key, (u32)(key << 16) | id);
    } else if (used > made->entries && used <= m->entries_count) {
      entries[used - 1] |= (u32)1 << 31;
      insert((u32 *)(size_t)m->slots, m->slots_count, made->slots_left, key, (u32)(key << bits) | (made->entries + 1));
      made->entries = used;
    }
  }
}

/* Make a part of the tables: of each kind of context the numbers with its highest bits. */
SMALL static NOT_INLINE void make_part(nc *m, u32 own) {
  making *made = &m->making;
  int bits = list_bits(m), own_bits = made_bits(m), more = max(0, own_bits - bits);
  u32 slots = m->slots_count >> own_bits, singles = m->singles_count >> own_bits;
  u32 first = own << bits >> own_bits, last = (((own + 1) << bits) - 1) >> own_bits; /* lists that have some of it */
  if (made->is_made[own]) return;
  made->is_made[own] = 1, made->unmade -= 1;
  zero((u32 *)(size_t)m->slots + (size_t)own * slots, 4 * (size_t)slots);
  zero((u32 *)(size_t)m->singles + (size_t)own * singles, 4 * (size_t)singles);
  for (int k = 0; k < CONTEXTS; k++) {
    int is_rare = 0;
    for (int r = 0; r < RARE_CONTEXTS_COUNT; r++) is_rare |= RARE_CONTEXTS[r] == k;
    for (u32 p = first; p <= last; p++) {
      const u32 *ends = made->ends + ((size_t)k << bits);
      u32 from = p ? ends[p - 1] : 0, count = take_listed(made->keys + (size_t)k * m->text_count + from, ends[p] - from,
          more, own & (((u32)1 << more) - 1), made->part);
      count_sorted(m, sort_part(m, more, made->part, count, made->sorted), count, (u64)p << (32 - bits), is_rare);
    }
  }
}

SMALL int nc_make(nc *m) {
  for (u32 p = 0, count = 0; m->making.unmade && count < 16; p++)
    if (!m->making.is_made[p]) make_part(m, p), count++;
  return m->making.unmade != 0;
}

SMALL static NOT_INLINE void index_some(const nc *m, u32 from, u32 to) {
  i32 *positions = (i32 *)(size_t)m->positions;
  for (u32 end = from < MATCH_CHARACTERS ? MATCH_CHARACTERS : from; end < to; end++)
    positions[hash_of(m->text, end) & (m->positions_count - 1)] = (i32)end;
}

/* Put the keys before each character, and what it is, into lists: those of context k into row k of `keys`, from row
   k + 1. */
SMALL static void list_all_keys(nc *m) {
  static reader r;
  u32 N = m->text_count, *keys = m->making.keys + N, *ends = m->making.ends;
  int bits = list_bits(m);
  zero(&r, sizeof r);
  zero(ends, CONTEXTS * sizeof(u32) << bits);
  for (u32 i = 0, count; i < N; i += count) {
    count = N - i < AT_ONCE ? N - i : AT_ONCE;
    index_some(m, i, i + count);
    write_some_keys(m, &r, i, i + count, keys);
    for (u32 k = 0; k < CONTEXTS; k++) count_keys(keys + k * (size_t)N + i, count, bits, ends + (k << bits));
  }
  for (int k = 0; k < CONTEXTS; k++, keys += N, ends += (u32)1 << bits) {
    add_up(ends, (u32)1 << bits);
    for (u32 i = 0; i < N; i += AT_ONCE)
      list_keys(keys + i, m->text + i, N - i < AT_ONCE ? N - i : AT_ONCE, bits, ends, keys - N);
  }
}

/* Read ids of the text, which have one byte if there are `bytes`; return whether they are ids. */
SMALL static NOT_INLINE int read_ids(const nc *m, const u8 *bytes, u32 from, u32 to) {
  u16 *text = (u16 *)(size_t)m->text;
  int largest = 0;
  for (u32 i = from; i < to; i++) {
    if (bytes) text[i] = bytes[i];
    largest = max(largest, text[i]);
  }
  return largest < m->V;
}

SMALL static int fill_tables(nc *m, const u8 *file) {
  u32 N = m->text_count;
  const u8 *bytes = exactly(file, PACK_TEXT, 0, N);
  for (u32 i = 0; i < N; i += AT_ONCE)
    if (!read_ids(m, bytes, i, N - i < AT_ONCE ? N : i + AT_ONCE)) return damaged();
  if (m->is_filled) return 1;

  zero((void *)(size_t)m->positions, 4 * (size_t)m->positions_count);
  int slot_bits = part_bits(m->slots_count), single_bits = part_bits(m->singles_count);
  for (int p = 0; p < 1 << MAX_PART_BITS; p++) {
    m->making.slots_left[p] = (m->slots_count >> slot_bits) - 1;
    m->making.singles_left[p] = (m->singles_count >> single_bits) - 1;
  }
  zero(m->making.is_made, 1 << MAX_PART_BITS);
  m->making.unmade = (u32)1 << made_bits(m);
  list_all_keys(m);
  return 1;
}

/* ---- the network: models/kernels/lstm_inference.py */

/* sums = x (rows) times a matrix of int16 in panels; exact. */
static void multiply(const layer *l, int rows, const i16 *x, i32 *sums) {
  int pairs = (rows + 1) / 2;
  const i16 *w = l->weights;
  for (int first = 0; first < l->columns; first += PANEL, sums += PANEL) {
#if defined(__wasm_simd128__)
    v128_t total[PANEL / 4];
    for (int v = 0; v < PANEL / 4; v++) total[v] = wasm_i32x4_const(0, 0, 0, 0);
    for (int pair = 0; pair < pairs; pair++, w += 2 * PANEL) {
      v128_t both = wasm_v128_load32_splat(x + 2 * pair);
      for (int v = 0; v < PANEL / 4; v++)
        total[v] = wasm_i32x4_add(total[v], wasm_i32x4_dot_i16x8(wasm_v128_load(w + 8 * v), both));
    }
    for (int v = 0; v < PANEL / 4; v++) wasm_v128_store(sums + 4 * v, total[v]);
#elif defined(__SSE2__)
    __m128i total[PANEL / 4];
    for (int v = 0; v < PANEL / 4; v++) total[v] = _mm_setzero_si128();
    for (int pair = 0; pair < pairs; pair++, w += 2 * PANEL) {
      i32 two;
      copy(&two, x + 2 * pair, 4);
      __m128i both = _mm_set1_epi32(two);
      for (int v = 0; v < PANEL / 4; v++)
        total[v] = _mm_add_epi32(
            total[v], _mm_madd_epi16(_mm_load_si128((const __m128i *)(const void *)(w + 8 * v)), both));
    }
    for (int v = 0; v < PANEL / 4; v++) _mm_storeu_si128((__m128i *)(void *)(sums + 4 * v), total[v]);
#else
    for (int j = 0; j < PANEL; j++) sums[j] = 0;
    for (int pair = 0; pair < pairs; pair++, w += 2 * PANEL)
      for (int j = 0; j < PANEL; j++)
        sums[j] += (i32)w[2 * j] * x[2 * pair] + (i32)w[2 * j + 1] * x[2 * pair + 1];
#endif
  }
}

static void quantize(i16 *x, const f32 *h, int units) {
  for (int j = 0; j < units; j++) x[j] = (i16)((i32)(h[j] * 127.0f + 128.5f) - 128);
}

static void gates(int units, const f32 *restrict scale, const f32 *restrict base, const i32 *restrict sums,
                  f32 *restrict h, f32 *restrict c) {
  for (int j = 0; j < units; j++) {
    int f = units + j, g = 2 * units + j;
    f32 into = 1.0f + exp2_(base[j] + scale[j] * (f32)sums[j]);
    f32 forget = 1.0f + exp2_(base[f] + scale[f] * (f32)sums[f]);
    f32 cell = exp2_(base[g] + scale[g] * (f32)sums[g]);
    f32 other = into * (1.0f + cell);
    c[j] = (c[j] * other + (1.0f - cell) * forget) / (other * forget);
  }
  for (int j = 0; j < units; j++) {
    int o = 3 * units + j;
    f32 out = 1.0f + exp2_(base[o] + scale[o] * (f32)sums[o]);
    f32 cell = exp2_((f32)PACK_TANH_EXPONENT * c[j]);
    h[j] = (1.0f - cell) / (out * (1.0f + cell));
  }
}

/* Read id c in a row, and write the logits after it if wanted. */
static void step_network(nc *m, f32 *row, int c, f32 *logits) {
  f32 *h = row;
  const f32 *below = 0;
  for (int n = 0; n < m->layers; n++) {
    const layer *l = &m->layer[n];
    int rows = l->inputs + l->units;
    if (n) quantize(m->x, below, l->inputs);
    quantize(m->x + l->inputs, h, l->units);
    m->x[rows] = 0;
    multiply(l, rows, m->x, m->sums);
    gates(l->units, l->scale, l->base + (n ? 0 : (size_t)c * (size_t)l->columns), m->sums, h, h + l->units);
    below = h;
    h += 2 * l->units;
  }
  if (!logits) return;
  const layer *dense = &m->layer[m->layers];
  quantize(m->x, below, dense->inputs);
  m->x[dense->inputs] = 0;
  multiply(dense, dense->inputs, m->x, m->sums);
  for (int j = 0; j < m->V; j++) logits[j] = dense->base[j] + dense->scale[j] * (f32)m->sums[j];
}

/* ---- what the mixture reads: models/kernels/mixture_contexts.py and mixture_history.py */

static i32 *numbers_of(const nc *m, f32 *row) { return (i32 *)(void *)(row + m->S); }
static u16 *past_of(i32 *numbers) { return (u16 *)(void *)(numbers + HISTORY_IDS); }
static f32 *prediction_of(const nc *m, f32 *row) { return row + m->S + (m->has_mixture ? PREDICTION : 0); }

static int common_length(const u16 *text, int at, const u16 *past) {
  int length = 0;
  while (length < MAX_MATCH && length < at) {
    int c = text[at - 1 - length];
    if (c == 0 || c != past[HISTORY_CHARACTERS - 1 - length]) break;
    length += 1;
  }
  return length;
}

SMALL static NOT_INLINE void find_history_match(i32 *row, const u16 *past) {
  row[HISTORY_MATCH_DISTANCE] = row[HISTORY_MATCH_LENGTH] = 0;
  u16 c2 = past[HISTORY_CHARACTERS - 3], c3 = past[HISTORY_CHARACTERS - 4];
  const u16 *end = past + HISTORY_CHARACTERS;
  for (int block = 0; block < read_blocks(row); block++) {
    int first = (int)(block_of(end, block) - past);
    u64 mask = pairs_of(end, block);
    if (mask) mask &= equal_mask(past + first - 2, c2) & equal_mask(past + first - 3, c3);
    while (mask) {
      int k = highest_bit(mask);
      mask ^= (u64)1 << k;
      int length = common_length(past, first + k + 1, past);
      if (length >= HISTORY_MATCH_CHARACTERS && length > row[HISTORY_MATCH_LENGTH]) {
        row[HISTORY_MATCH_DISTANCE] = HISTORY_CHARACTERS - 1 - first - k;
        row[HISTORY_MATCH_LENGTH] = length;
      }
    }
    if (row[HISTORY_MATCH_LENGTH] >= MAX_MATCH / 2) return;
  }
}

static int same_characters(const u16 *past, int i) {
  int length = 2, is_same = 1;
  for (int n = 2; n < ORDERS[ORDERS_COUNT - 1]; n++) {
    int c = past[HISTORY_CHARACTERS - 1 - n];
    is_same &= (c != 0) & (past[i - n] == c);
    length += is_same;
  }
  return length;
}

static void follow_match(const nc *m, i32 *row, const u16 *past, int is_predicted, int at) {
  if (is_predicted) {
    row[MATCH_AT] += 1;
    row[MATCH_LENGTH] = min(row[MATCH_LENGTH] + 1, MAX_MATCH);
  } else {
    int length = common_length(m->text, at, past);
    int is_match = length >= MATCH_CHARACTERS;
    row[MATCH_AT] = is_match ? at : 0;
    row[MATCH_LENGTH] = is_match ? length : 0;
  }
  if (row[MATCH_AT] >= (i32)m->text_count) row[MATCH_AT] = row[MATCH_LENGTH] = 0;
}

static NOT_INLINE void shift_in(u16 *past, int count, int read, u16 number) {
  int moved = min(read, count - 1);
  u16 *first = past + count - 1 - moved;
  move(first, first + 1, 2 * (size_t)moved);
  past[count - 1] = number;
}

static void read_context(const nc *m, i32 *row, int c) {
  u16 *past = past_of(row), *keys = (u16 *)(void *)(row + HISTORY_KEYS);
  if (m->characters[3 * c + KIND] == RECORD_END) zero(row, 4 * STATE_COLUMNS);
  int before = past[HISTORY_CHARACTERS - 1];
  shift_in(past, HISTORY_CHARACTERS, row[READ], (u16)c);
  for (int j = 0; j < RECENT_KEYS_COUNT; j++, keys += KEY_CHARACTERS)
    shift_in(keys, KEY_CHARACTERS, row[READ], (u16)(row[KEYS + RECENT_KEYS[j]] & 0xFFFF));
  row[READ] += 1;
  follow(m->characters, row, before, c);
  const u16 *end = past + HISTORY_CHARACTERS;
  write_order_keys(row, end);
  write_other_keys(row, end, m->characters[BRACKET_KIND], followers_of(end));
}

static void read_character(const nc *m, i32 *row, int c) {
  const u16 *past = past_of(row);
  int distance = row[HISTORY_MATCH_DISTANCE], at = row[MATCH_AT];
  int goes_on = m->characters[3 * c + KIND] != RECORD_END;
  int was_predicted = goes_on && distance > 0 && c != 0 && past[HISTORY_CHARACTERS - distance] == c;
  int is_match_over = !goes_on || at == 0 || m->text[at] != c;
  read_context(m, row, c);
  if (is_match_over) {
    at = m->positions[hash_of(past, HISTORY_CHARACTERS) & (m->positions_count - 1)];
    if (at < 0 || at > (i32)m->text_count) at = 0;
  }
  if (was_predicted) row[HISTORY_MATCH_LENGTH] = min(row[HISTORY_MATCH_LENGTH] + 1, MAX_MATCH);
  else find_history_match(row, past);
  follow_match(m, row, past, !is_match_over, at);
}

static int length_bucket(int length) {
  if (length < 16) return (length + 1) >> 1;
  if (length < 32) return 5 + length / 4;
  return min(BUCKETS - 1, 12 + length / 32);
}

static void write_features(nc *m, const i32 *row, const u16 *past) {
  int at = row[MATCH_AT], distance = row[HISTORY_MATCH_DISTANCE];
  i32 *features = m->features;
  features[MATCH_ID] = 0 < at && at < (i32)m->text_count ? m->text[at] : 0;
  features[MATCH_BUCKET] = length_bucket(row[MATCH_LENGTH]);
  features[HISTORY_MATCH_ID] = distance > 0 ? past[HISTORY_CHARACTERS - distance] : 0;
  features[HISTORY_MATCH_BUCKET] = BUCKETS + length_bucket(row[HISTORY_MATCH_LENGTH]);
}

/* ---- its decisions: models/kernels/mixture.py */

#define FLOOR 1e-3f
#define EPSILON 1e-9f
#define LEAST 1e-37f
#define MAX_LOGIT 14.0f

static void touch(nc *m, int node) {
  if (!m->is_touched[node]) {
    m->is_touched[node] = 1;
    m->touched[++m->touched[0]] = node;
  }
}

static void forget(nc *m) {
  m->has_counts = m->has_decisions = 0;
  for (int i = 1; i <= m->touched[0]; i++) {
    int node = m->touched[i];
    m->is_touched[node] = 0;
    zero(m->counts + (size_t)node * COUNT_COLUMNS, 4 * COUNT_COLUMNS);
  }
  m->touched[0] = 0;
}

static void add_known(nc *m, int k, int c, f32 count) {
  if (c >= m->V) return; /* of a table in a damaged file */
  for (int at = m->up[c]; at >= 0; at = m->up[m->V + (at >> 1)]) {
    touch(m, at >> 1);
    m->counts[(at >> 1) * COUNT_COLUMNS + BEFORE + k + SIDE * (at & 1)] += count;
  }
}

static void add_recent(nc *m, int j, int c, int times) {
  for (int at = m->up[c]; at >= 0; at = m->up[m->V + (at >> 1)]) {
    f32 *counts = m->counts + (at >> 1) * COUNT_COLUMNS, *own = counts + SIDE * (at & 1);
    touch(m, at >> 1);
    if (counts[PLACES + j] + counts[SIDE + PLACES + j] == 0) own[NEWEST + j] = MAX_RECENT;
    own[PLACES + j] += (f32)times;
  }
}

/* Let the run of context k, if it has one, predict id c. */
static void write_run(nc *m, int k, int c, i64 steps, int is_known, int has_others) {
  int run = RUN_OF[k];
  if (run < 0 || c >= m->V) return; /* of a table in a damaged file */
  m->features[2 * (MATCHES + run)] = c;
  m->features[2 * (MATCHES + run) + 1] =
      MATCHES * BUCKETS + RUN_STATES * run + (steps < 15 ? 4 * (int)steps : 60) + 2 * is_known + has_others;
}

/* Count what followed the contexts, and how much and how many different ids in rows of `followed`; let the
   most frequent ids be what the runs predict. */
static void gather_known(nc *m, const i32 *row) {
  i64 starts[CONTEXTS];
  for (int k = 0; k < CONTEXTS; k++) {
    starts[k] = entries_of(m, row[KEYS + k]);
    if (starts[k] >= 0) __builtin_prefetch(m->entries + starts[k]);
  }
  for (int k = 0; k < CONTEXTS; k++) {
    i64 at = starts[k];
    if (at < 0) {
      int is_rare = 0;
      for (int r = 0; r < RARE_CONTEXTS_COUNT; r++) is_rare |= RARE_CONTEXTS[r] == k;
      int c = is_rare ? 0 : single_of(m, row[KEYS + k]);
      if (c > 0) {
        m->followed[0][k] = m->followed[1][k] = 1.0f;
        write_run(m, k, c, 1, 1, 0);
        add_known(m, k, c, 1.0f);
      }
      continue;
    }
    int best = 0;
    f32 most = 0;
    for (u32 entry = 0; entry < (u32)1 << 31 && at < m->entries_count; at++) {
      entry = m->entries[at];
      f32 count = (f32)((entry >> 16) & 0x7FFF);
      if (count > most) best = (int)(entry & 0xFFFF), most = count;
      if (count > 0) {
        m->followed[0][k] += count;
        m->followed[1][k] += 1.0f;
        add_known(m, k, (int)(entry & 0xFFFF), count);
      }
    }
    i64 total = (i64)m->followed[0][k];
    int is_only = m->followed[1][k] == 1;
    if (total > 0) write_run(m, k, best, is_only ? total : 16 * (i64)most / total, 1, !is_only);
  }
}

typedef struct { /* what followed a context in the history */
  int places, different, run; /* up to the first with another id */
  int ids[MAX_RECENT], times[MAX_RECENT]; /* the newest first */
} noted;

static void note(noted *found, int c) {
  if (c == 0 || found->places == MAX_RECENT) return;
  int i = 0;
  while (i < found->different && found->ids[i] != c) i++;
  if (i == found->different) found->ids[found->different++] = c, found->times[i] = 0;
  found->times[i] += 1;
  found->places += 1;
  found->run += found->different == 1;
}

static void add_noted(nc *m, int j, const noted *found) {
  for (int i = 0; i < found->different; i++) add_recent(m, j, found->ids[i], found->times[i]);
  m->followed[2][RECENT_CONTEXTS[j]] = (f32)found->places;
  m->followed[4][RECENT_CONTEXTS[j]] = (f32)found->different;
  if (found->places) write_run(m, RECENT_CONTEXTS[j], found->ids[0], found->run, 0, found->different > 1);
}

static void gather_recent(nc *m, const i32 *row) {
  const u16 *past = past_of((i32 *)(size_t)row), *keys = (const u16 *)(const void *)(row + HISTORY_KEYS);
  const u16 *end = past + HISTORY_CHARACTERS;
  u16 last = end[-1];
  noted orders[ORDERS_COUNT], other;
  for (int j = 0; j < ORDERS_COUNT; j++) orders[j].places = orders[j].different = orders[j].run = 0;
  for (int block = 0; block < read_blocks(row) && last; block++) {
    int first = (int)(block_of(end, block) - past);
    u64 pairs = pairs_of(end, block);
    u64 mask = orders[0].places < MAX_RECENT ? equal_mask(past + first, last) : pairs;
    while (mask) {
      int k = highest_bit(mask);
      mask ^= (u64)1 << k;
      int length = pairs >> k & 1 ? same_characters(past, first + k) : 1;
      for (int j = 0; j < ORDERS_COUNT; j++)
        if (length >= ORDERS[j]) note(&orders[j], past[first + k + 1]);
    }
  }
  for (int j = 0; j < ORDERS_COUNT; j++) add_noted(m, j, &orders[j]);
  for (int j = 0; j < RECENT_KEYS_COUNT; j++, keys += KEY_CHARACTERS) {
    u16 key = (u16)(row[KEYS + RECENT_KEYS[j]] & 0xFFFF);
    other.places = other.different = other.run = 0;
    for (int block = 0; block < KEY_BLOCKS && other.places < MAX_RECENT; block++) {
      const u16 *first = block_of(end, block) + 1;
      u64 mask = equal_mask(block_of(keys + KEY_CHARACTERS, block) + 1, key);
      while (mask && other.places < MAX_RECENT) {
        int k = highest_bit(mask);
        mask ^= (u64)1 << k;
        note(&other, first[k]);
      }
    }
    add_noted(m, ORDERS_COUNT + j, &other);
  }
}

static int step_of(f32 n, const i32 *steps) {
  return n <= 3 ? (int)n : 4 + (n > (f32)steps[0]) + (n > (f32)steps[1]) + (n > (f32)steps[2]);
}

/* Write what counts weigh in learned estimates, and the more general contexts, into `learned`. */
static void write_learned(nc *m) {
  for (int i = 0; i < LEARNED_SHARES; i++) {
    int k = BACKOFF_CONTEXTS[LEARNED_FROM + i];
    f32 total = m->followed[0][k], different = m->followed[1][k];
    f32 places = m->followed[2][k], others = m->followed[4][k], share = 1.0f;
    const f32 *shares = m->backoffs + i * SHARE_STATES;
    if (total > 0) share = shares[8 * step_of(different, DIFFERENT_STEPS) + step_of(total, COUNT_STEPS)];
    m->learned[0][i] = (1.0f - share) / maxf(total, 1.0f);
    m->learned[1][i] = share;
    int at_places = 4 * step_of(places, PLACE_STEPS) + (others > 1) + (others > 2) + (others > 4);
    int known = total == 0 ? 0 : different == 1 ? 1 : total <= 16 ? 2 : 3;
    share = places > 0 ? shares[KNOWN_STATES + 4 * at_places + known] : 1.0f;
    m->learned[2][i] = (1.0f - share) / maxf(places, 1.0f);
    m->learned[3][i] = share;
  }
}

/* Turn the sums of `followed` into what a count weighs in an estimate, and the more general contexts. */
static void weigh_counts(nc *m) {
  for (int k = 0; k < CONTEXTS; k++) {
    f32 total = m->followed[0][k] + (f32)RECENT_WEIGHT * m->followed[2][k];
    f32 rest = (f32)BACKOFF_SHARE * maxf(m->followed[1][k], 1.0f);
    m->followed[0][k] = 1.0f / (total + rest);
    m->followed[2][k] = (f32)RECENT_WEIGHT / (total + rest);
    m->followed[3][k] = total == 0 ? 1.0f : rest / (total + rest);
  }
}

static void gather(nc *m, const i32 *row) {
  if (m->has_counts) return;
  forget(m);
  m->has_counts = 1;
  write_features(m, row, past_of((i32 *)(size_t)row));
  zero(m->features + 2 * MATCHES, 8 * RUNS);
  zero(m->followed, sizeof m->followed);
  gather_known(m, row);
  gather_recent(m, row);
  for (int i = 0; i < PREDICTIONS; i++)
    for (int at = m->up[m->features[MATCH_ID + 2 * i]]; at >= 0; at = m->up[m->V + (at >> 1)]) {
      touch(m, at >> 1);
      m->counts[(at >> 1) * COUNT_COLUMNS + MATCHED + i] = (f32)(1 + (at & 1));
    }
  write_learned(m);
  weigh_counts(m);
}

static void write_known(const nc *m, const f32 *own, i32 *states, f32 *inputs) {
  for (int k = 0; k < CONTEXTS; k++) {
    f32 n0 = own[BEFORE + k], n1 = own[SIDE + BEFORE + k], total = n0 + n1;
    f32 z = log_((n1 + 0.4f) / (n0 + 0.4f));
    i32 middle = min(max((i32)(8.0f + z * 1.3f), 1), 14);
    i32 ratio = n1 == 0 ? 0 : n0 == 0 ? 15 : middle;
    i32 large = min((i32)(0.8f + 2.3083f * log_(total + 1e-3f)), 15);
    i32 size = total <= 4 ? (i32)total : large, is_certain = m->followed[1][k] == 1 && total > 0;
    states[k] = is_certain ? CERTAIN_STATES + 2 * size + (ratio & 1) : size * 16 + ratio;
  }
  for (int k = 0; k < CONTEXTS; k++) inputs[k] = m->maps[k * MAP_STATES + states[k]];
}

static void write_recent(const nc *m, const f32 *own, i32 *states, f32 *inputs) {
  for (int j = 0; j < RECENT; j++) {
    int n0 = min((int)own[PLACES + j], 6), n1 = min((int)own[SIDE + PLACES + j], 6);
    states[CONTEXTS + j] = 2 * (7 * n0 + n1) + (own[SIDE + NEWEST + j] > 0);
    inputs[BY_RECENT + j] = m->recent_maps[j * RECENT_STATES + states[CONTEXTS + j]];
  }
}

static int write_predicted(const nc *m, const f32 *own, i32 *states, f32 *inputs) {
  int sides = 0, best = 0;
  for (int i = 0; i < PREDICTIONS; i++) {
    int side = (int)own[MATCHED + i], bucket = m->features[MATCH_BUCKET + 2 * i];
    states[CONTEXTS + RECENT + i] = bucket;
    f32 z = m->match_maps[bucket];
    inputs[BY_MATCH + i] = side == 0 ? 0.0f : side == 2 ? z : -z;
    if (side == 0 || i >= MATCHES) continue;
    sides |= side;
    best = max(best, 1 + ((bucket & (BUCKETS - 1)) >> 1));
  }
  return 4 * best + sides;
}

/* Write the inputs from interpolated estimates, which begin with frequencies in the text. */
static void write_backoffs(const nc *m, const f32 *own, const f32 *share, f32 *inputs) {
  f32 left_parts[CONTEXTS], right_parts[CONTEXTS], odds[BACKOFFS];
  for (int k = 0; k < CONTEXTS; k++) {
    left_parts[k] = own[BEFORE + k] * m->followed[0][k];
    right_parts[k] = own[SIDE + BEFORE + k] * m->followed[0][k];
  }
  for (int j = 0; j < RECENT; j++) {
    int k = RECENT_CONTEXTS[j];
    left_parts[k] += own[PLACES + j] * m->followed[2][k];
    right_parts[k] += own[SIDE + PLACES + j] * m->followed[2][k];
  }
  for (int n = 0; n < BACKOFFS; n++) {
    f32 left = share[0], right = share[1];
    for (int i = BACKOFF_STARTS[n]; i < BACKOFF_STARTS[n + 1]; i++) {
      int k = BACKOFF_CONTEXTS[i], j = RECENT_OF[k];
      if (n < LEARNED_BACKOFF) {
        left = left_parts[k] + m->followed[3][k] * left;
        right = right_parts[k] + m->followed[3][k] * right;
        continue;
      }
      f32 count = m->learned[0][i - LEARNED_FROM], rest = m->learned[1][i - LEARNED_FROM];
      left = own[BEFORE + k] * count + rest * left;
      right = own[SIDE + BEFORE + k] * count + rest * right;
      if (j < 0) continue;
      count = m->learned[2][i - LEARNED_FROM], rest = m->learned[3][i - LEARNED_FROM];
      left = own[PLACES + j] * count + rest * left;
      right = own[SIDE + PLACES + j] * count + rest * right;
    }
    f32 least = 1e-7f * (left + right) + LEAST;
    odds[n] = (right + least) / (left + least);
  }
  for (int n = 0; n < BACKOFFS; n++) inputs[BY_BACKOFF + n] = log_(odds[n]);
}

/* The row of PAIRS for a number of at most 30 bits and a node: a multiplicative hash. */
static int pair(u64 a, int node) {
  return (int)((a * 0x9E3779B1u + (u64)node * 0x85EBCA6Bu) >> 21 & (PAIRS - 1));
}

/* Choose the rows of the weights. */
static void choose_sets(nc *m, const i32 *row, int node, int by_match, f32 by_backoff) {
  const u16 *past = past_of((i32 *)(size_t)row);
  int c1 = past[HISTORY_CHARACTERS - 1], c2 = past[HISTORY_CHARACTERS - 2], kind = m->characters[3 * c1 + KIND];
  int kinds = row[TOKENS], last = row[LAST_TOKEN], letters = min(row[LETTERS], 15);
  int by_kinds = pair((kinds & 0x3FF) | last << 10 | min(letters, 3) << 15, node);
  i32 *chosen = m->chosen;
  chosen[0] = SET_STARTS[0] + pair(c1, node);
  chosen[1] = SET_STARTS[1] + pair(c2, node);
  chosen[2] = SET_STARTS[2] + by_kinds;
  chosen[3] = SET_STARTS[3] + pair((kinds & 0x7FFF) | last << 15, node);
  chosen[4] = SET_STARTS[4] + pair(m->features[2 * (MATCHES + RUN_OF[BRACKET])], node);
  chosen[5] = SET_STARTS[5] + pair(m->features[2 * (MATCHES + RUN_OF[SHAPE])], node);
  chosen[6] = SET_STARTS[6] + by_match;
  chosen[7] = SET_STARTS[7] + 8 * letters + kind;
  int column = m->characters[BRACKET_KIND] ? row[LINE_COLUMN] : row[LINE_COLUMN] >> 3;
  chosen[8] = SET_STARTS[8] + 8 * min(row[FIELD_NUMBER], 31) + min(column, 7);
  f32 odds = minf(maxf(by_backoff, -8.0f), 8.0f) * (f32)(ODDS_STEPS / 16.0);
  chosen[SETS] = LAST_STARTS[0] + min(node, GROUPS - 1);
  chosen[SETS + 1] = LAST_STARTS[1] + by_kinds;
  chosen[SETS + 2] = LAST_STARTS[2] + pair(c1 ^ c2 << 10, node);
  chosen[SETS + 3] = LAST_STARTS[3] + by_match;
  chosen[SETS + 4] = LAST_STARTS[4] + min((i32)(odds + (f32)(ODDS_STEPS / 2.0 + 0.5)), ODDS_STEPS - 1);
}

static f32 limited(f32 z) { return minf(maxf(z, -MAX_LOGIT), MAX_LOGIT); }

/* The logarithm of the odds of the right subtree of a node, after `gather`. */
static f32 decide(nc *m, f32 *row, int node, f32 by_network) {
  i32 *numbers = numbers_of(m, row);
  const f32 *own = m->counts + node * COUNT_COLUMNS, *shifts = row + m->S + SHIFTS;
  f32 *inputs = m->inputs + node * INPUTS, *outputs = m->outputs + node * SETS;
  write_known(m, own, m->states, inputs);
  write_recent(m, own, m->states, inputs);
  int by_match = write_predicted(m, own, m->states, inputs);
  write_backoffs(m, own, m->text_shares + 2 * node, inputs);
  inputs[CONSTANT] = 0.4f;
  inputs[BY_NETWORK] = by_network;
  for (int i = BY_NETWORK + 1; i < INPUTS; i++) inputs[i] = 0.0f;
  choose_sets(m, numbers, node, by_match, inputs[BY_BACKOFF + BACKOFFS - 1]);
  f32 shift = m->adapts ? dot(shifts, inputs, INPUTS) : 0.0f;
  for (int k = 0; k < SETS; k++)
    outputs[k] = limited(dot(m->weights + m->chosen[k] * INPUTS, inputs, INPUTS) + shift);
  f32 last_shift = m->adapts ? dot(shifts + INPUTS, outputs, SETS) : 0.0f;
  f32 last = 0.0f;
  for (int k = 0; k < LAST_SETS; k++) last += dot(m->last_weights + m->chosen[SETS + k] * SETS, outputs, SETS);
  return limited(last * (f32)(1.0 / LAST_SETS) + last_shift);
}

static void write_shares(nc *m, const f32 *logits) {
  f32 best = logits[1];
  for (int c = 2; c < m->V; c++) best = maxf(best, logits[c]);
  for (int c = 1; c < m->V; c++) m->shares[c] = exp_(logits[c] - best);
  for (int node = m->nodes - 1; node >= 0; node--)
    for (int side = 0; side < 2; side++) {
      int child = m->children[2 * node + side];
      m->below[2 * node + side] =
          child > 0 ? m->below[2 * child] + m->below[2 * child + 1] : m->shares[-child];
    }
}

static void prepare(nc *m, f32 *row) {
  if (m->has_decisions) return;
  gather(m, numbers_of(m, row));
  write_shares(m, prediction_of(m, row));
  zero(m->decided, (size_t)m->nodes);
  m->has_decisions = 1;
}

static f32 odds_of(const nc *m, int node) {
  f32 left = m->below[2 * node], right = m->below[2 * node + 1];
  f32 least = EPSILON * (left + right) + LEAST;
  return log_((right + least) / (left + least));
}

static f32 decision(nc *m, f32 *row, int node) {
  if (!m->decided[node]) {
    m->decided[node] = 1;
    m->decisions[node] = decide(m, row, node, odds_of(m, node));
  }
  return m->decisions[node];
}

static void adapt_weights(f32 *shifts, f32 *curvatures, const f32 *inputs, int count, f32 error,
                          f32 curvature, f32 precision, f32 limit) {
  f32 gain = 0.0f;
  for (int i = 0; i < count; i++) {
    f32 square = inputs[i] * inputs[i];
    curvatures[i] = minf(curvatures[i] + curvature * square, limit);
    gain += square / (precision + curvatures[i]);
  }
  f32 step = error / (1.0f + 0.25f * gain);
  for (int i = 0; i < count; i++) shifts[i] += step * inputs[i] / (precision + curvatures[i]);
}

static void adapt(nc *m, f32 *row, int c) {
  f32 *shifts = row + m->S + SHIFTS, *curvatures = row + m->S + CURVATURES;
  prepare(m, row);
  for (int at = m->up[c]; at >= 0; at = m->up[m->V + (at >> 1)]) decision(m, row, at >> 1);
  f32 precision = m->adaptation[PRECISION], last = m->adaptation[LAST_PRECISION];
  f32 limit = m->adaptation[LIMIT];
  for (int at = m->up[c]; at >= 0; at = m->up[m->V + (at >> 1)]) {
    int node = at >> 1;
    f32 p = sigmoid(m->decisions[node]), error = (f32)(at & 1) - p, curvature = p * (1.0f - p);
    adapt_weights(shifts, curvatures, m->inputs + node * INPUTS, INPUTS, error, curvature, precision,
                  limit * precision);
    adapt_weights(shifts + INPUTS, curvatures + INPUTS, m->outputs + node * SETS, SETS, error, curvature,
                  last, limit * last);
  }
}

/* Read id c: the mixture first, by what was predicted, then the network, whose logits stay in the row if they
   are wanted. */
static void read_id(nc *m, f32 *row, int c, int is_wanted) {
  if (m->has_mixture) {
    if (m->adapts) {
      f32 *predicted = row + m->S + PREDICTED;
      if (c > 0 && *predicted > 0) adapt(m, row, c);
      *predicted = 1.0f; /* by the logits after c, below */
    }
    if (m->has_counts) forget(m);
    read_character(m, numbers_of(m, row), c);
  }
  step_network(m, row, c, is_wanted || m->adapts ? prediction_of(m, row) : 0);
}

/* Write the logits of the next character after what the row has read. */
SMALL static void predict(nc *m, f32 *row, f32 *logits) {
  if (!m->has_mixture) {
    copy(logits, prediction_of(m, row), 4 * (size_t)m->V);
    return;
  }
  prepare(m, row);
  m->masses[0] = 1.0f;
  if (!m->nodes) logits[1] = 0.0f;
  for (int node = 0; node < m->nodes; node++) {
    f32 mass = m->masses[node];
    f32 right = sigmoid(mass >= FLOOR ? decision(m, row, node) : odds_of(m, node));
    for (int side = 0; side < 2; side++) {
      int child = m->children[2 * node + side];
      f32 part = mass * (side == 1 ? right : 1.0f - right);
      if (child > 0) m->masses[child] = part;
      else logits[-child] = log_(maxf(part, LEAST));
    }
  }
}

/* ---- prompts, and the states after them that are kept */

#define NO_POINT 0xFFFFFFFFu

/* Return the code point that begins at *at of UTF-8, and move *at behind it; NO_POINT: there is none. */
static u32 next_point(const u8 *text, size_t length, size_t *at) {
  u32 point = text[(*at)++];
  if (point < 0x80) return point;
  int more = point >= 0xF0 ? 3 : point >= 0xE0 ? 2 : 1;
  if (point < 0xC2 || point > 0xF4) return NO_POINT;
  point &= 0x3Fu >> more;
  for (int i = 0; i < more; i++, (*at)++) {
    if (*at >= length || (text[*at] & 0xC0) != 0x80) return NO_POINT;
    point = point << 6 | (text[*at] & 0x3F);
  }
  return point > 0x10FFFF || (more == 2 && point < 0x800) || (more == 3 && point < 0x10000) ? NO_POINT : point;
}

/* Write a code point in UTF-8; return its bytes. */
static int write_point(u32 point, u8 *to) {
  if (point < 0x80) return to[0] = (u8)point, 1;
  if (point < 0x800) return to[0] = (u8)(0xC0 | point >> 6), to[1] = (u8)(0x80 | (point & 0x3F)), 2;
  if (point < 0x10000) {
    to[0] = (u8)(0xE0 | point >> 12), to[1] = (u8)(0x80 | (point >> 6 & 0x3F));
    return to[2] = (u8)(0x80 | (point & 0x3F)), 3;
  }
  to[0] = (u8)(0xF0 | point >> 18), to[1] = (u8)(0x80 | (point >> 12 & 0x3F));
  return to[2] = (u8)(0x80 | (point >> 6 & 0x3F)), to[3] = (u8)(0x80 | (point & 0x3F)), 4;
}

static int id_of(const nc *m, u32 point) {
  int low = 0, high = m->V - 1;
  while (low < high) {
    int middle = (low + high) / 2;
    if (m->points[middle] < point) low = middle + 1;
    else high = middle;
  }
  return low < m->V - 1 && m->points[low] == point ? low + 1 : 0;
}

/* Return the id of the character that begins at *at of a text, and move *at behind it; -1: no UTF-8. */
static int next_id(const nc *m, const char *text, size_t length, size_t *at) {
  u32 point = m->is_bytes ? ((const u8 *)text)[(*at)++] : next_point((const u8 *)text, length, at);
  return point == NO_POINT ? -1 : id_of(m, point);
}

/* Write the character of an id; return its bytes. */
static int write_id(const nc *m, int id, char *text) {
  u32 point = m->points[id - 1];
  if (m->is_bytes) return *text = (char)point, 1;
  return write_point(point, (u8 *)text);
}

BEGIN_SMALL
#include "masks.c"
END_SMALL

SMALL void nc_forget(nc *m) {
  for (int k = 0; k < KEPT; k++) m->kept[k].length = 0;
}

void nc_keep(nc *m, int keeps) { m->keeps = keeps; }

/* Keep the row's state after `length` characters of this hash, instead of that which was not used longest. */
static void keep(nc *m, u64 hash, u32 length) {
  kept *oldest = &m->kept[0];
  for (int k = 0; k < KEPT; k++) {
    kept *one = &m->kept[k];
    if (one->length == length && one->hash == hash) {
      one->used = ++m->clock;
      return;
    }
    if (!one->length || (oldest->length && one->used < oldest->used)) oldest = one;
  }
  oldest->hash = hash, oldest->length = length, oldest->used = ++m->clock;
  copy(oldest->row, m->row, 4 * (size_t)m->row_floats);
}

static kept *find(nc *m, u64 hash, u32 length) {
  for (int k = 0; k < KEPT; k++)
    if (m->kept[k].length == length && m->kept[k].hash == hash) return &m->kept[k];
  return 0;
}

typedef struct { /* of the characters of a prompt, with the newline that a line begins with */
  const char *text;
  size_t length, at;
  int is_started, adds_line;
  masking masking;
} prompt;

/* Begin to read a prompt, whose values are masked. */
static prompt begin_prompt(const nc *m, const char *text, size_t length) {
  int begins_line = length > 0 && text[0] == '\n';
  prompt p = {.text = text, .length = length, .adds_line = length == 0 || (m->starts_line && !begins_line)};
  begin_masking(&p.masking, &m->masks, text, length);
  return p;
}

static int next_of_prompt(const nc *m, prompt *p) { /* -1: no UTF-8; -2: its end */
  size_t newline = 0;
  if (!p->is_started) {
    p->is_started = 1;
    if (p->adds_line) return next_id(m, "\n", 1, &newline);
  }
  if (p->masking.placeholder && p->at == p->masking.start) {
    int id = id_of(m, p->masking.placeholder);
    p->at = p->masking.end;
    find_value(&p->masking);
    return id;
  }
  return p->at < p->length ? next_id(m, p->text, p->length, &p->at) : -2;
}

/* Read a prompt into the row, from the longest beginning whose state is kept on. Return 1, or 0. */
SMALL static int read_prompt(nc *m, const char *text, size_t length) {
  prompt p = begin_prompt(m, text, length), q = p;
  u64 hash = 0, found_hash = 0, lengths = 0; /* bit n of lengths: a kept one has n as its remainder by 64 */
  u32 count = 0, begun = 1;
  kept *found = 0;
  int c;
  for (int k = 0; k < KEPT; k++) lengths |= (u64)1 << (m->kept[k].length & 63);
  while ((c = next_of_prompt(m, &p)) >= 0) {
    hash = mixed(hash, (u64)c + 1);
    count += 1;
    kept *one = lengths >> (count & 63) & 1 ? find(m, hash, count) : 0;
    if (one) found = one, found_hash = hash, begun = count + 1, q = p;
  }
  if (c == -1) return failed("the text is no UTF-8");
  if (m->has_mixture) forget(m);
  if (found) {
    copy(m->row, found->row, 4 * (size_t)m->row_floats);
    found->used = ++m->clock;
  } else {
    zero(m->row, 4 * (size_t)m->row_floats);
  }
  for (hash = found_hash; (c = next_of_prompt(m, &q)) >= 0; begun++) {
    int is_last = begun == count, is_kept = is_last || begun % KEPT_EVERY == 0;
    hash = mixed(hash, (u64)c + 1);
    read_id(m, m->row, c, is_kept);
    if (is_kept && m->keeps) keep(m, hash, begun);
  }
  return 1;
}

/* ---- completions: models/runtime/decoding.py and generation.py */

static u64 finalized(u64 x) { /* SplitMix64 */
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

static double uniform(u64 key, u32 position) {
  u64 counter = key + ((u64)position + 1) * 0x9E3779B97F4A7C15u;
  return (double)(finalized(counter) >> 12) * 0x1p-52;
}

static int likeliest(const nc *m, const f32 *z) {
  int best = 1;
  for (int c = 2; c < m->V; c++)
    if (z[c] > z[best]) best = c;
  return best;
}

/* Sort ids from 1 on by their weights, the largest first; of equal ones the smaller id. Heapsort. */
SMALL static void sort_ids(nc *m, const f32 *weights) {
  i32 *order = m->order;
  int count = 0;
#define IS_AFTER(a, b) (weights[a] < weights[b] || (weights[a] == weights[b] && (a) > (b)))
  for (; count < m->V - 1; count++) order[count] = count + 1;
  for (int first = count / 2 - 1, end = count; end > 1;) {
    int root, moved;
    if (first >= 0) root = first--, moved = order[root];
    else {
      end -= 1;
      moved = order[end], order[end] = order[0], root = 0;
      if (end < 1) break;
    }
    for (int child; (child = 2 * root + 1) < end; root = child) {
      if (child + 1 < end && IS_AFTER(order[child + 1], order[child])) child += 1;
      if (!IS_AFTER(order[child], moved)) break;
      order[root] = order[child];
    }
    order[root] = moved;
  }
#undef IS_AFTER
}

static int choose_filtered(nc *m, double u) {
  f32 *weights = m->picked;
  sort_ids(m, weights);
  int count = m->V - 1;
  if (m->top_k && (int)m->top_k < count) count = (int)m->top_k;
  double total = 0, reached = 0;
  for (int i = 0; i < count; i++) total += weights[m->order[i]];
  int kept = 0;
  for (; kept < count; kept++) {
    f32 weight = weights[m->order[kept]];
    if (reached >= m->top_p * total || weight < m->min_p * weights[m->order[0]]) break;
    reached += weight;
  }
  double target = u * reached, cumulative = 0;
  for (int i = 0; i < kept; i++) {
    cumulative += weights[m->order[i]];
    if (cumulative > target) return m->order[i];
  }
  return m->order[0];
}

/* Choose an id by logits (V,). */
static int choose(nc *m, const f32 *z, double u) {
  int best = likeliest(m, z);
  if (m->inverse_temperature <= 0) return best;
  double total = 0, cumulative = 0;
  for (int c = 1; c < m->V; c++) m->picked[c] = exp_((z[c] - z[best]) * m->inverse_temperature);
  if (m->top_k || m->top_p < 1 || m->min_p > 0) return choose_filtered(m, u);
  for (int c = 1; c < m->V; c++) total += m->picked[c];
  double target = u * total;
  for (int c = 1; c < m->V; c++) {
    cumulative += m->picked[c];
    if (cumulative > target) return c;
  }
  return best;
}

#define BITS 1.4426950408889634

/* Return the entropy of logits in bits, and with id > 0 write the surprisal of it. */
SMALL static double entropy(const nc *m, const f32 *z, f32 inverse_temperature, int id, double *surprisal) {
  f32 best = z[likeliest(m, z)];
  double total = 0, weighted = 0;
  for (int c = 1; c < m->V; c++) {
    f32 own = (z[c] - best) * inverse_temperature, e = exp_(own);
    total += e;
    weighted += e * (double)own;
  }
  double nats = log_((f32)total);
  if (id > 0) *surprisal = (nats - (z[id] - best) * (double)inverse_temperature) * BITS;
  double bits = (nats - weighted / total) * BITS;
  return bits > 0 ? bits : 0;
}

SMALL static int read_stops(nc *m, const char *stops, size_t length) {
  m->stops = 0;
  for (size_t at = 0; at < length;) {
    if (m->stops == MAX_STOPS) return failed("there are more than 16 stop strings");
    stop_string *s = &m->stop[m->stops++];
    s->length = s->matched = 0, s->borders[0] = 0;
    size_t end = at;
    while (end < length && stops[end]) end++;
    while (at < end) {
      int id = next_id(m, stops, end, &at);
      if (id < 0) return failed("a stop string is no UTF-8");
      if (s->length == MAX_STOP) return failed("a stop string has more than 200 characters");
      s->points[s->length++] = id ? (u32)id : 0xFFFFFFFF; /* which is never generated */
    }
    for (int i = 1, n = 0; i < s->length; i++) {
      while (n && s->points[i] != s->points[n]) n = s->borders[n - 1];
      if (s->points[i] == s->points[n]) n++;
      s->borders[i] = (u16)n;
    }
    if (!s->length) m->stops--;
    at = end + 1;
  }
  return 1;
}

/* Take an id; return how many of the last ones, this one included, may still be cut off by a stop string. */
SMALL static int unsettled_by_stops(nc *m, int id, int *is_stop) {
  int held = 0, matched = 0;
  for (int i = 0; i < m->stops; i++) {
    stop_string *s = &m->stop[i];
    int n = s->matched;
    while (n && (n == s->length || s->points[n] != (u32)id)) n = s->borders[n - 1];
    if (s->points[n] == (u32)id) n++;
    s->matched = n;
    held = max(held, n);
    if (n == s->length) matched = max(matched, n);
  }
  *is_stop = matched > 0;
  return matched ? matched : held;
}

SMALL int nc_complete_start(nc *m, const char *text, size_t length, u32 max_characters, double temperature,
                      u32 seed_low, u32 seed_high, u32 index, u32 top_k, double top_p, double min_p, int until,
                      double confidence_bits, const char *stops, size_t stops_length) {
  m->reason = NC_LENGTH;
  m->held_count = m->settled = 0;
  if (!(temperature >= 0 && temperature <= 10)) return failed("temperature must be from 0 to 10");
  if (!(top_p > 0 && top_p <= 1)) return failed("top_p must be above 0 and at most 1");
  if (!(min_p >= 0 && min_p <= 1)) return failed("min_p must be from 0 to 1");
  if (until < NC_UNTIL_NOTHING || until > NC_UNTIL_CONFIDENCE) return failed("until is none of its values");
  if (!max_characters) return failed("max_characters must be at least 1");
  if (!read_stops(m, stops, stops_length) || !read_prompt(m, text, length)) return 0;
  u64 seed = (u64)seed_high << 32 | seed_low;
  m->key = finalized(seed * 0x9E3779B97F4A7C15u + 1);
  m->key = finalized(m->key ^ (((u64)index + 1) * 0xD1B54A32D192ED03u));
  m->inverse_temperature = temperature > 0 ? (f32)(1 / (temperature > 1e-6 ? temperature : 1e-6)) : 0.0f;
  m->top_k = top_k, m->top_p = top_p, m->min_p = (f32)min_p;
  m->until = until, m->confidence_bits = confidence_bits;
  m->max_characters = max_characters;
  m->taken = 0, m->bits = 0, m->is_in_word = 0, m->last_id = 0;
  m->reason = NC_GOES_ON;
  return 1;
}

/* Take the id of one character more. */
SMALL static void append(nc *m, int id) {
  u32 point = m->points[id - 1];
  int is_word = m->flags[id] & PACK_IS_WORD, unsettled = 0, is_stop = 0;
  m->last_id = id;
  m->taken += 1;
  m->held[m->held_count++] = id;
  if (m->until == NC_UNTIL_LINE && (point == '\n' || point == '\r')) {
    unsettled = 1, m->reason = NC_LINE;
  } else if (m->until == NC_UNTIL_WORD && m->is_in_word && !is_word) {
    unsettled = 1, m->reason = NC_WORD;
  } else {
    m->is_in_word |= is_word;
    unsettled = unsettled_by_stops(m, id, &is_stop);
    if (is_stop) m->reason = NC_STOP;
  }
  if (m->reason) m->held_count -= unsettled;
  else if (m->taken == m->max_characters) m->reason = NC_LENGTH;
  m->settled = m->reason ? m->held_count : m->held_count - unsettled;
}

static void complete_one(nc *m) {
  double surprisal = 0;
  if (m->last_id) read_id(m, m->row, m->last_id, 1);
  predict(m, m->row, m->logits);
  if (m->until == NC_UNTIL_CONFIDENCE && entropy(m, m->logits, 1.0f, 0, 0) > m->confidence_bits) {
    m->reason = NC_CONFIDENCE;
    m->settled = m->held_count;
    return;
  }
  int id = choose(m, m->logits, m->inverse_temperature > 0 ? uniform(m->key, m->taken) : 0.0);
  entropy(m, m->logits, 1.0f, id, &surprisal);
  m->held_bits[m->held_count] = (f32)surprisal;
  append(m, id);
}

SMALL int nc_complete_next(nc *m, char *buffer, size_t capacity) {
  int bytes = 0, sent = 0;
  if (capacity < 16) return failed("the buffer is too small"), -1;
  while (!m->settled && !m->reason) complete_one(m);
  for (; sent < m->settled && (size_t)bytes + 4 <= capacity; sent++) {
    bytes += write_id(m, m->held[sent], buffer + bytes);
    m->bits += m->held_bits[sent];
  }
  m->settled -= sent, m->held_count -= sent;
  move(m->held, m->held + sent, sizeof(i32) * (size_t)m->held_count);
  move(m->held_bits, m->held_bits + sent, sizeof(f32) * (size_t)m->held_count);
  return bytes;
}

int nc_complete_reason(nc *m) { return m->settled ? NC_GOES_ON : m->reason; }

double nc_complete_bits(nc *m) { return m->bits; }

/* ---- distributions, scores and what the model is */

BEGIN_SMALL

typedef struct {
  char *at;
  size_t used, capacity;
} writer;

static void put(writer *w, const char *text, size_t bytes) {
  for (size_t i = 0; i < bytes; i++, w->used++)
    if (w->used < w->capacity) w->at[w->used] = text[i];
}

static void put_text(writer *w, const char *text) {
  for (; *text; text++) put(w, text, 1);
}

static void put_string(writer *w, const char *text, size_t bytes) {
  put(w, "\"", 1);
  for (size_t i = 0; i < bytes; i++) {
    u8 c = (u8)text[i];
    if (c == '"' || c == '\\') put(w, "\\", 1);
    if (c >= 0x20) put(w, text + i, 1);
    else {
      const char *digits = "0123456789abcdef";
      char escape[6] = {'\\', 'u', '0', '0', digits[c >> 4], digits[c & 15]};
      put(w, escape, 6);
    }
  }
  put(w, "\"", 1);
}

static void put_number(writer *w, double x, int decimals) { /* below 1e9 */
  char digits[24];
  int n = 0;
  double scale = 1;
  for (int i = 0; i < decimals; i++) scale *= 10;
  if (x < 0) put(w, "-", 1), x = -x;
  u64 whole = x < 1e9 ? (u64)(x * scale + 0.5) : 0;
  do digits[n++] = (char)('0' + whole % 10), whole /= 10;
  while (whole || n <= decimals);
  while (n--) {
    put(w, digits + n, 1);
    if (n == decimals && n) put(w, ".", 1);
  }
}

/* End the text with a zero byte; return its bytes, or -1. */
static int end(writer *w) {
  if (w->used + 1 > w->capacity) return failed("the buffer is too small"), -1;
  w->at[w->used] = 0;
  return (int)w->used;
}

int nc_next(nc *m, const char *text, size_t length, double temperature, u32 top, char *json,
            size_t capacity) {
  writer w = {json, 0, capacity};
  if (!(temperature >= 0 && temperature <= 10)) return failed("temperature must be from 0 to 10"), -1;
  if (!read_prompt(m, text, length)) return -1;
  predict(m, m->row, m->logits);
  m->reason = NC_LENGTH; /* a completion that was not at its end cannot go on */
  m->settled = m->held_count = 0;
  f32 inverse = (f32)(1 / (temperature > 1e-6 ? temperature : 1e-6));
  f32 best = m->logits[likeliest(m, m->logits)];
  double total = 0;
  for (int c = 1; c < m->V; c++) total += m->picked[c] = exp_((m->logits[c] - best) * inverse);
  put_text(&w, "{\"entropy_bits\": ");
  put_number(&w, entropy(m, m->logits, inverse, 0, 0), 6);
  put_text(&w, ", \"candidates\": [");
  sort_ids(m, m->picked);
  for (u32 i = 0; i < top && i < (u32)m->V - 1; i++) {
    char character[4];
    int id = m->order[i], bytes = write_id(m, id, character);
    put_text(&w, i ? ", {\"character\": " : "{\"character\": ");
    put_string(&w, character, (size_t)bytes);
    put_text(&w, ", \"probability\": ");
    put_number(&w, m->picked[id] / total, 9);
    put_text(&w, "}");
  }
  put_text(&w, "]}");
  return end(&w);
}

#include "scores.c"

/* ---- suggestions: lines of the corpus, best first */

#define ERROR_BITS 9.0
#define KIND_BITS 2.0
#define ACCENT_BITS 10.0
#define INSIDE_BITS 4.0
#define MIN_WEIGHT 0.01

static int lay_out_lines(nc *m, const u8 *file, room *room) {
  lines *l = &m->lines;
  u64 bytes, folded, words, alphabet, folds, texts, count;
  l->starts = section(file, PACK_LINE_STARTS, 0, &bytes);
  if (!l->starts) return 1;
  count = bytes / 4;
  l->folded = section(file, PACK_LINE_FOLDED, 0, &folded);
  l->alphabet = section(file, PACK_LINE_ALPHABET, 0, &alphabet);
  l->words = section(file, PACK_LINE_WORDS, 0, &words);
  l->folds = section(file, PACK_LINE_FOLDS, 0, &folds);
  l->texts = section(file, PACK_LINE_TEXTS, 0, &texts);
  l->text_ends = exactly(file, PACK_LINE_TEXT_ENDS, 0, 4 * count);
  l->counts = exactly(file, PACK_LINE_COUNTS, 0, 4 * count);
  u64 blocks = (count + COUNT_BLOCK - 1) / COUNT_BLOCK, own = (words / 4 + COUNT_BLOCK - 1) / COUNT_BLOCK;
  l->maxima = exactly(file, PACK_LINE_MAXIMA, 0, 4 * blocks);
  l->word_maxima = exactly(file, PACK_LINE_WORD_MAXIMA, 0, 4 * own);
  const double *weight = exactly(file, PACK_LINE_WEIGHT, 0, 8);
  if (!count || count > PACK_MAX_LINES || !l->folded || !l->alphabet || !l->words || !l->folds || !l->texts ||
      !l->text_ends || !l->counts || !l->maxima || !l->word_maxima || !weight || !(*weight >= 0 && *weight <= 1) ||
      folded >> 30 || texts >> 30 || alphabet / 4 > 65535)
    return damaged();
  l->count = (u32)count, l->alphabet_count = (u32)(alphabet / 4), l->words_count = (u32)(words / 4);
  l->is_wide = l->alphabet_count > 255;
  l->folded_count = (u32)(folded / (l->is_wide ? 2 : 1));
  l->folds_count = (u32)(folds / 16), l->texts_bytes = (u32)texts, l->weight = *weight;
  u64 V = (u64)m->V, rows = CONTINUATION;
  l->states = take(room, rows, sizeof(f32) * (u64)m->S);
  l->logits = take(room, rows, sizeof(f32) * V);
  l->ranges = take(room, MAX_RANGES, sizeof(range));
  l->found = take(room, MAX_CANDIDATES, sizeof(candidate));
  l->others = take(room, MAX_CANDIDATES, sizeof(candidate));
  l->stack = take(room, SEARCH_STACK, 5 * sizeof(i64));
  return 1;
}

static int folded_at(const lines *l, i64 at) {
  if (at >= l->folded_count) at = l->folded_count - 1;
  return l->is_wide ? ((const u16 *)l->folded)[at] : ((const u8 *)l->folded)[at];
}

/* Return the entry of a code point in the table of folded ones, or NULL. */
static const u32 *fold_of(const lines *l, u32 point) {
  u32 low = 0, high = l->folds_count;
  while (low < high) {
    u32 middle = (low + high) / 2;
    if (l->folds[4 * middle] < point) low = middle + 1;
    else high = middle;
  }
  return low < l->folds_count && l->folds[4 * low] == point ? l->folds + 4 * low : 0;
}

static int number_of(const u32 *fold, int n) { return (int)(fold[2 + n / 2] >> (16 * (n % 2)) & 0xFFFF); }

static int check_lines(nc *m) {
  lines *l = &m->lines;
  int is_good = l->folded_count > 0 && l->starts[0] == 0 && l->text_ends[l->count - 1] == l->texts_bytes;
  for (u32 i = 0; i < l->count && is_good; i++) {
    u32 end = i + 1 < l->count ? l->starts[i + 1] : l->folded_count;
    is_good = end > l->starts[i] && end <= l->folded_count && folded_at(l, end - 1) == 0 &&
              (i == 0 || l->text_ends[i] >= l->text_ends[i - 1]);
  }
  for (u32 i = 0; i < l->folded_count && is_good; i++)
    is_good = folded_at(l, i) <= (int)l->alphabet_count;
  for (u32 i = 0; i < l->alphabet_count && is_good; i++) is_good = l->alphabet[i] <= 0x10FFFF;
  for (u32 i = 0; i < l->words_count && is_good; i++) is_good = l->words[i] < l->folded_count;
  for (u32 i = 0; i < l->folds_count && is_good; i++)
    for (int n = 0; n < 4; n++) is_good &= number_of(l->folds + 4 * i, n) <= (int)l->alphabet_count;
  if (!is_good) return damaged();
  return 1;
}

static const u32 *places_of(const lines *l, int is_inside) { return is_inside ? l->words : l->starts; }

static int order_of(const lines *l, i64 at, const i32 *query, int first, int last) {
  for (int i = first; i < last; i++) {
    int c = folded_at(l, at + i - first);
    if (c != query[i]) return c < query[i] ? -1 : 1;
  }
  return 0;
}

static i64 bound(const lines *l, const u32 *places, i64 lo, i64 hi, i64 depth, const i32 *query, int first,
                 int last, int after) {
  while (lo < hi) {
    i64 middle = (lo + hi) >> 1;
    if (order_of(l, (i64)places[middle] + depth, query, first, last) < after) lo = middle + 1;
    else hi = middle;
  }
  return lo;
}

static i64 next_child(const lines *l, const u32 *places, i64 lo, i64 hi, i64 depth) {
  int c = folded_at(l, places[lo] + depth);
  i64 step = 1;
  while (lo + step < hi && folded_at(l, places[lo + step] + depth) == c) step <<= 1;
  i64 low = lo + (step >> 1) + 1, high = lo + step < hi ? lo + step : hi;
  while (low < high) {
    i64 middle = (low + high) >> 1;
    if (folded_at(l, places[middle] + depth) == c) low = middle + 1;
    else high = middle;
  }
  return low;
}

static int push(lines *l, int size, i64 lo, i64 hi, i64 depth, i64 done, i64 left) {
  if (size == SEARCH_STACK) return size;
  i64 *state = l->stack + 5 * size;
  state[0] = lo, state[1] = hi, state[2] = depth, state[3] = done, state[4] = left;
  return size + 1;
}

static int push_next(lines *l, const u32 *places, const i32 *query, int n, int size) {
  i64 *state = l->stack + 5 * size, lo = state[0], hi = state[1], depth = state[2], left = state[4];
  int done = (int)state[3];
  if (done + 1 < n && query[done] != query[done + 1]) { /* exchanged */
    i64 low = lo, high = hi;
    for (int first = 0; first < 2; first++) {
      low = bound(l, places, low, high, depth + first, query, done + 1 - first, done + 2 - first, 0);
      high = bound(l, places, low, high, depth + first, query, done + 1 - first, done + 2 - first, 1);
    }
    size = push(l, size, low, high, depth + 2, done + 2, left - 1);
  }
  size = push(l, size, lo, hi, depth, done + 1, left - 1); /* one too many */
  while (lo < hi) {
    int c = folded_at(l, places[lo] + depth);
    i64 end = next_child(l, places, lo, hi, depth);
    if (c == query[done]) {
      size = push(l, size, lo, end, depth + 1, done + 1, left);
    } else if (c != 0) {
      size = push(l, size, lo, end, depth + 1, done, left - 1);     /* left out */
      size = push(l, size, lo, end, depth + 1, done + 1, left - 1); /* substituted */
    }
    lo = end;
  }
  return size;
}

/* Find the ranges of entries that begin with a query, of n numbers, but for errors after the first `exact`
   ones; return how many. */
static int find_ranges(lines *l, const u32 *places, u32 count, const i32 *query, int n, int exact, int errors) {
  i64 first = bound(l, places, 0, count, 0, query, 0, exact, 0);
  int size = push(l, 0, first, bound(l, places, first, count, 0, query, 0, exact, 1), exact, exact, errors);
  int found = 0;
  while (size > 0) {
    i64 *state = l->stack + 5 * --size, lo = state[0], hi = state[1], depth = state[2], left = state[4];
    int done = (int)state[3];
    if (left == 0) {
      lo = bound(l, places, lo, hi, depth, query, done, n, 0);
      hi = bound(l, places, lo, hi, depth, query, done, n, 1);
      depth += n - done, done = n;
    }
    if (lo < hi && done < n) size = push_next(l, places, query, n, size);
    else if (lo < hi && found < (errors ? MAX_RANGES : 1))
      l->ranges[found++] = (range){(i32)lo, (i32)hi, (i32)(errors - left), (i32)depth};
  }
  return found;
}

static i32 line_of(const lines *l, u32 place) {
  u32 low = 0, high = l->count;
  while (low < high) {
    u32 middle = (low + high) >> 1;
    if (l->starts[middle] <= place) low = middle + 1;
    else high = middle;
  }
  return (i32)low - 1;
}

/* Write the lines of largest count in the ranges of a query of n characters with so many errors, those ranges
   first that stand for most characters; return how many. */
static int largest(lines *l, int ranges, int n, int errors, int is_inside, candidate *best, int most) {
  const u32 *places = places_of(l, is_inside), *maxima = is_inside ? l->word_maxima : l->maxima;
  int found = 0;
  for (int matched = n + errors; matched >= n - errors; matched--)
    for (int r = 0; r < ranges; r++) {
      const range *own = &l->ranges[r];
      if (own->errors != errors || own->matched != matched) continue;
      for (i64 i = own->lo; i < own->hi;) {
        if (i % COUNT_BLOCK == 0 && found == most && maxima[i / COUNT_BLOCK] <= best[most - 1].count) {
          i += COUNT_BLOCK;
          continue;
        }
        i32 line = is_inside ? line_of(l, places[i]) : (i32)i;
        u32 count = l->counts[line];
        int is_known = found == most && count <= best[most - 1].count;
        i += 1;
        for (int j = 0; j < found && !is_known; j++) is_known = best[j].line == line;
        if (is_known) continue;
        int j = min(found, most - 1);
        for (; j > 0 && best[j - 1].count < count; j--) best[j] = best[j - 1];
        best[j] = (candidate){line, errors, errors ? matched : n, places[own->lo], count, 0, 0, 0, 0, 0};
        found = min(found + 1, most);
      }
    }
  return found;
}

static u32 folded_end(const lines *l, int line) {
  return (u32)line + 1 < l->count ? l->starts[line + 1] - 1 : l->folded_count - 1;
}

/* Write the text of a line, at most `capacity` bytes; return its bytes. */
static size_t text_of(const lines *l, int line, u8 *text, size_t capacity) {
  u32 from = line ? l->text_ends[line - 1] : 0, to = l->text_ends[line];
  size_t used = 0;
  if (from < to) {
    for (; from < to && used < capacity; from++) text[used++] = l->texts[from];
    return used;
  }
  for (u32 at = l->starts[line], last = folded_end(l, line); at < last && used + 4 <= capacity; at++) {
    int number = folded_at(l, at);
    if (number) used += (size_t)write_point(l->alphabet[number - 1], text + used);
  }
  return used;
}

/* Say whether line b begins with line a, but for case and accents. */
static int begins_line(const lines *l, int a, int b) {
  u32 first = l->starts[a], second = l->starts[b], length = folded_end(l, a) - first;
  for (u32 i = 0; i < length; i++)
    if (folded_at(l, first + i) != folded_at(l, second + i)) return 0;
  return 1;
}

static double log2_of(u32 count) { return count < 1u << 30 ? log_((f32)(count + 1)) * BITS : 30; }
static double score_of(const candidate *c) { return log2_of(c->count) - c->penalty; }

static void sort_candidates(candidate *all, int count) { /* best first; equal ones as they are */
  for (int i = 1; i < count; i++) {
    candidate own = all[i];
    double score = score_of(&own);
    int j = i;
    for (; j > 0 && score_of(&all[j - 1]) < score; j--) all[j] = all[j - 1];
    all[j] = own;
  }
}

typedef struct { /* a context, which is followed by a tab, and a prefix without spaces at its start */
  i32 numbers[8 * MAX_PREFIX + 8]; /* folded, -1 for a character that no line has */
  u32 points[2 * MAX_PREFIX + 1];  /* case-folded */
  int count, points_count, is_ascii;
  int exact, context_points; /* of the context: numbers, and points */
  i32 typed[4 * MAX_PREFIX]; /* numbers of the prefix with its spaces, of which each character has some */
  int typed_ends[MAX_PREFIX], typed_count;
} query;

/* Write the numbers that a code point folds to, at most four; return how many. */
static int fold_point(const u32 *fold, i32 *numbers) {
  int count = 0;
  if (!fold) return numbers[0] = -1, 1;
  for (; count < 4 && number_of(fold, count); count++) numbers[count] = number_of(fold, count);
  return count;
}

static int read_part(const lines *l, const char *text, size_t length, query *q, int is_prefix) {
  q->typed_count = 0;
  for (size_t at = 0; at < length;) {
    i32 *typed = q->typed + (q->typed_count ? q->typed_ends[q->typed_count - 1] : 0);
    u32 point = next_point((const u8 *)text, length, &at);
    if (point == NO_POINT) return failed("the text is no UTF-8");
    if (q->typed_count == MAX_PREFIX)
      return failed(is_prefix ? "the prefix has more than 1000 characters" : "the context has more than 1000 characters");
    const u32 *fold = fold_of(l, point);
    int count = fold_point(fold, typed);
    q->typed_ends[q->typed_count++] = (int)(typed - q->typed) + count;
    if (is_prefix && q->points_count == q->context_points &&
        (point == ' ' || (point >= 9 && point <= 13) || point == 0xA0))
      continue;
    q->is_ascii &= point < 0x80;
    q->points[q->points_count++] = fold ? fold[1] : point;
    for (int n = 0; n < count; n++) q->numbers[q->count++] = typed[n];
  }
  return 1;
}

/* Read a context, if it is not empty, and a prefix. Return 0: one is no UTF-8, or too long. */
static int read_query(const lines *l, const char *context, size_t context_length, const char *prefix, size_t length,
                      query *q) {
  q->count = q->points_count = q->exact = q->context_points = 0, q->is_ascii = 1;
  if (context_length) {
    if (!read_part(l, context, context_length, q, 0)) return 0;
    q->count += fold_point(fold_of(l, '\t'), q->numbers + q->count);
    q->points[q->points_count++] = '\t';
    q->exact = q->count, q->context_points = q->points_count;
  }
  return read_part(l, prefix, length, q, 1);
}

/* Write which lines are texts after the context, of which each ends with a zero byte; return how many ranges. */
static int read_excluded(lines *l, const query *q, const char *texts, size_t length, range *excluded) {
  static i32 numbers[8 * MAX_PREFIX + 8];
  int count = 0;
  for (size_t at = 0; at < length && count < MAX_EXCLUDED;) {
    size_t end = at;
    int n = q->exact;
    copy(numbers, q->numbers, sizeof(i32) * (size_t)n);
    while (end < length && texts[end]) end++;
    while (at < end && n < 8 * MAX_PREFIX) {
      u32 point = next_point((const u8 *)texts, end, &at);
      n += fold_point(point == NO_POINT ? 0 : fold_of(l, point), numbers + n);
    }
    numbers[n++] = 0; /* the end of the line */
    if (at == end && find_ranges(l, l->starts, l->count, numbers, n, 0, 0)) excluded[count++] = l->ranges[0];
    at = end + 1;
  }
  return count;
}

static int is_excluded(const range *excluded, int count, i32 line) {
  for (int i = 0; i < count; i++)
    if (line >= excluded[i].lo && line < excluded[i].hi) return 1;
  return 0;
}

/* Write the range of the prefix that differs from what it stands for in a line. */
static void put_replaced(writer *w, const lines *l, const query *q, const candidate *c) {
  i64 at = (i64)c->place + q->context_points;
  int left = c->matched - q->context_points, first = 0, last = q->typed_count;
  if (!c->errors) {
    put_text(w, "null");
    return;
  }
  for (int is_start = 1; is_start >= 0; is_start--)
    while (first < last) { /* characters at the start that are the same, then at the end */
      int item = is_start ? first : last - 1, from = item ? q->typed_ends[item - 1] : 0;
      int count = q->typed_ends[item] - from, is_same = count <= left;
      for (int n = 0; n < count && is_same; n++)
        is_same = q->typed[from + n] == folded_at(l, at + (is_start ? 0 : left - count) + n);
      if (!is_same) break;
      if (is_start) first += 1, at += count;
      else last -= 1;
      left -= count;
    }
  if (first == last) last = min(first + 1, q->typed_count);
  put_text(w, "{\"start\": "), put_number(w, min(first, last - 1), 0);
  put_text(w, ", \"end\": "), put_number(w, last, 0), put_text(w, "}");
}

/* Whether a line begins with the prefix, accents included. */
static int has_accents(const lines *l, int line, const query *q) {
  u8 text[4096];
  size_t bytes = text_of(l, line, text, sizeof text), at = 0;
  for (int i = 0; i < q->points_count; i++) {
    u32 point = at < bytes ? next_point(text, bytes, &at) : NO_POINT;
    const u32 *fold = point == NO_POINT ? 0 : fold_of(l, point);
    if (point == NO_POINT || (fold ? fold[1] : point) != q->points[i]) return 0;
  }
  return 1;
}

static double error_bits(const lines *l, const candidate *c, const query *q, int is_inside) {
  double bits = ERROR_BITS * c->errors + INSIDE_BITS * is_inside;
  if (c->errors != 1) return bits;
  int meant = c->matched, is_exchanged = meant == q->count;
  for (int i = 0; i < q->count && is_exchanged; i++) { /* the same characters, as often */
    int balance = 0;
    for (int j = 0; j < q->count; j++)
      balance += (q->numbers[j] == q->numbers[i]) - (folded_at(l, c->place + (u32)j) == q->numbers[i]);
    is_exchanged = balance == 0;
  }
  return bits + (is_exchanged || meant > q->count ? -KIND_BITS : KIND_BITS);
}

/* Search for lines as models/runtime/line_index.py; return how many were found. */
static int search_lines(lines *l, const query *q, int typos, int wanted, int most, double *coverage) {
  int ranges = find_ranges(l, l->starts, l->count, q->numbers, q->count, q->exact, 0);
  range whole = ranges ? l->ranges[0] : (range){0, 0, 0, 0};
  int room = q->is_ascii ? most : min(MORE_WITH_ACCENTS * most, MAX_CANDIDATES);
  int count = largest(l, ranges, q->count, 0, 0, l->found, room);
  for (int i = 0; i < count; i++) {
    l->found[i].begins = 1;
    l->found[i].penalty = has_accents(l, l->found[i].line, q) ? 0 : ACCENT_BITS;
  }
  sort_candidates(l->found, count);
  count = min(count, most);
  double covered = 0, total = 0;
  for (int i = 0; i < count; i++) covered += l->found[i].count;
  for (i64 i = whole.lo; i < whole.hi; i++) total += l->counts[i];
  *coverage = !ranges || whole.hi - whole.lo == count ? 1.0 : covered / (total > 1 ? total : 1);
  if (count >= wanted || q->count == q->exact) return count;
  int others = 0;
  if (!q->exact) {
    ranges = find_ranges(l, l->words, l->words_count, q->numbers, q->count, 0, 0);
    others = largest(l, ranges, q->count, 0, 1, l->others, most);
  }
  for (int i = 0; i < others; i++) l->others[i].penalty = INSIDE_BITS;
  int everywhere = count + others == 0 && !q->exact;
  for (int errors = 1; errors <= typos; errors++)
    for (int is_inside = 0; is_inside <= everywhere && count + others < wanted; is_inside++) {
      u32 places = is_inside ? l->words_count : l->count;
      candidate *next = l->others + others;
      ranges = find_ranges(l, places_of(l, is_inside), places, q->numbers, q->count, q->exact, errors);
      int more = largest(l, ranges, q->count, errors, is_inside, next, min(2 * most, MAX_CANDIDATES - others));
      for (int i = 0; i < more; i++) next[i].penalty = error_bits(l, &next[i], q, is_inside);
      others += more;
    }
  sort_candidates(l->others, others);
  for (int i = 0; i < others && count < most; i++) {
    int is_known = 0;
    for (int j = 0; j < count && !is_known; j++) is_known = l->found[j].line == l->others[i].line;
    if (!is_known) l->found[count++] = l->others[i];
  }
  return count;
}

/* Drop candidates that are excluded, or differ from an earlier one in case and accents alone. */
static int without_repeats(const lines *l, candidate *all, int count, const range *excluded, int excluded_count) {
  int kept = 0;
  for (int i = 0; i < count; i++) {
    int is_repeat = is_excluded(excluded, excluded_count, all[i].line);
    for (int j = 0; j < kept && !is_repeat; j++)
      is_repeat = begins_line(l, all[i].line, all[j].line) && begins_line(l, all[j].line, all[i].line);
    if (!is_repeat) all[kept++] = all[i];
  }
  return kept;
}

/* Search for as many lines as are wanted, of those that are not excluded; return how many were found. */
static int find_candidates(lines *l, const query *q, int typos, int limit, const range *excluded,
                           int excluded_count, double *coverage) {
  for (int most = max(WEIGHED, 2 * limit), wanted = limit;; most *= 4, wanted *= 4) {
    int count = search_lines(l, q, typos, wanted, most, coverage);
    int kept = without_repeats(l, l->found, count, excluded, excluded_count);
    if (kept >= limit || count < most || most >= 1024) return kept;
  }
}

static f32 *line_state(const nc *m, int row) { return m->lines.states + (size_t)row * (size_t)m->S; }
static f32 *line_logits(const nc *m, int row) { return m->lines.logits + (size_t)row * (size_t)m->V; }

/* Turn logits into natural log-probabilities of the known characters. */
static void log_softmax(const nc *m, f32 *z) {
  f32 best = z[likeliest(m, z)];
  double total = 0;
  for (int c = 1; c < m->V; c++) total += exp_(z[c] - best);
  f32 shift = best + log_((f32)total);
  for (int c = 1; c < m->V; c++) z[c] -= shift;
}

/* Read a text by the network alone into the first row, as the beginning of a line. */
static void read_line(nc *m, const char *text, size_t length) {
  prompt p = {.text = text, .length = length, .adds_line = m->starts_line || length == 0};
  int c;
  zero(line_state(m, 0), sizeof(f32) * (size_t)m->S);
  while ((c = next_of_prompt(m, &p)) >= 0) step_network(m, line_state(m, 0), c, line_logits(m, 0));
  log_softmax(m, line_logits(m, 0));
}

/* Write the bits of how the first candidates go on after what they have in common, by the network; `before`
   is read before each. */
static void weigh(nc *m, candidate *all, int count, const char *before, size_t before_length) {
  static u8 texts[WEIGHED][4 * MAX_PREFIX + 8 + 4096];
  size_t bytes[WEIGHED], common = 0;
  for (int i = 0; i < count; i++) {
    copy(texts[i], before, before_length);
    bytes[i] = before_length + text_of(&m->lines, all[i].line, texts[i] + before_length, 4096);
    size_t same = 0;
    while (i && same < common && same < bytes[i] && texts[i][same] == texts[0][same]) same++;
    common = i ? same : bytes[0];
  }
  for (int i = 0; i < count; i++)
    while (!m->is_bytes && common && common < bytes[i] && (texts[i][common] & 0xC0) == 0x80) common--;
  read_line(m, (const char *)texts[0], common);
  for (int i = 0; i < count; i++) {
    texts[i][bytes[i]++] = '\n';
    all[i].likely = 0;
    size_t at = common;
    for (int n = 0; n < CONTINUATION && at < bytes[i]; n++) {
      int id = next_id(m, (const char *)texts[i], bytes[i], &at);
      if (id < 0) break;
      all[i].likely += id ? -line_logits(m, n)[id] * BITS : m->unknown_bits;
      if (n + 1 == CONTINUATION || at >= bytes[i]) break;
      copy(line_state(m, n + 1), line_state(m, n), sizeof(f32) * (size_t)m->S);
      step_network(m, line_state(m, n + 1), id, line_logits(m, n + 1));
      log_softmax(m, line_logits(m, n + 1));
    }
  }
}

static double power_of_two(double x) { return x < -80 ? 0 : (double)exp_((f32)(x / BITS)); }

/* Turn weights, in `likely`, into shares of their sum. */
static void add_shares(candidate *all, int count, double part) {
  double total = 0;
  for (int i = 0; i < count; i++) total += all[i].likely * power_of_two(-all[i].penalty);
  for (int i = 0; i < count && total > 0; i++)
    all[i].share += part * all[i].likely * power_of_two(-all[i].penalty) / total;
}

int nc_suggest(nc *m, const char *prefix, size_t length, const char *context, size_t context_length,
               const char *exclude, size_t exclude_length, u32 limit, int max_typos, char *json, size_t capacity) {
  static query q;
  static range excluded[MAX_EXCLUDED];
  static char before[4 * MAX_PREFIX + 8];
  lines *l = &m->lines;
  writer w = {json, 0, capacity};
  size_t before_length = 0;
  if (!l->count) return failed("the model has no lines to suggest: it is not of records"), -1;
  if (!limit || limit > MAX_LIMIT) return failed("limit must be from 1 to 50"), -1;
  if (max_typos > 2) return failed("typos must be from 0 to 2"), -1;
  if (!read_query(l, context, context_length, prefix, length, &q)) return -1;
  if (context_length) {
    copy(before, context, context_length);
    before[context_length] = '\t', before_length = context_length + 1;
  }
  int typed = q.points_count - q.context_points, kept;
  int typos = max_typos < 0 ? (typed >= 4) + (typed >= 8) : max_typos;
  int excluded_count = read_excluded(l, &q, exclude, exclude_length, excluded);
  candidate *all = l->found;
  double coverage;
  kept = find_candidates(l, &q, typos, (int)limit, excluded, excluded_count, &coverage);
  if (!kept && q.exact) { /* no line has this context */
    read_query(l, 0, 0, prefix, length, &q);
    excluded_count = read_excluded(l, &q, exclude, exclude_length, excluded);
    kept = find_candidates(l, &q, typos, (int)limit, excluded, excluded_count, &coverage);
  }
  for (int i = 0; i < kept; i++) all[i].likely = 1.0 + all[i].count, all[i].share = 0;
  double weight = l->weight >= MIN_WEIGHT && kept > 1 ? l->weight : 0;
  add_shares(all, kept, 1 - weight);
  if (weight > 0) {
    int weighed = min(kept, WEIGHED);
    weigh(m, all, weighed, before, q.exact ? 0 : before_length);
    double least = all[0].likely;
    for (int i = 1; i < weighed; i++) least = all[i].likely < least ? all[i].likely : least;
    for (int i = 0; i < kept; i++) all[i].likely = i < weighed ? power_of_two(least - all[i].likely) : 0;
    add_shares(all, kept, weight);
  }
  double ceiling = 1;
  for (int i = 0; i < kept; i++) {
    all[i].likely = all[i].share * coverage;
    if (all[i].begins && all[i].likely < ceiling) ceiling = all[i].likely;
    int length = (int)(folded_end(l, all[i].line) - l->starts[all[i].line]), is_stem = 0;
    for (int j = 0; j < kept && !is_stem; j++) is_stem = j != i && begins_line(l, all[i].line, all[j].line);
    all[i].order = length + (is_stem && !(all[i].begins && length == q.count)) * LONGEST;
  }
  put_text(&w, "[");
  for (u32 n = 0; n < limit && (int)n < kept; n++) {
    candidate *best = 0;
    for (int i = 0; i < kept; i++) {
      candidate *c = &all[i];
      if (c->share < 0) continue;
      double own = !c->begins && c->likely > ceiling ? ceiling : c->likely;
      double other = best && !best->begins && best->likely > ceiling ? ceiling : best ? best->likely : -1;
      if (!best || own > other || (own == other && (c->begins > best->begins ||
          (c->begins == best->begins && (c->likely > best->likely ||
          (c->likely == best->likely && c->order > best->order))))))
        best = c;
    }
    u8 text[4096];
    size_t bytes = text_of(l, best->line, text, sizeof text), from = 0;
    for (int i = 0; i < q.context_points && from < bytes; i++) next_point(text, bytes, &from);
    put_text(&w, n ? ", {\"text\": " : "{\"text\": ");
    put_string(&w, (const char *)text + from, bytes - from);
    put_text(&w, ", \"probability\": ");
    put_number(&w, best->likely, 9);
    put_text(&w, ", \"count\": ");
    put_number(&w, best->count, 0);
    put_text(&w, ", \"exists\": true, \"replaced\": ");
    put_replaced(&w, l, &q, best);
    put_text(&w, "}");
    best->share = -1;
  }
  put_text(&w, "]");
  return end(&w);
}

int nc_mask(nc *m, const char *text, size_t length, char *masked, size_t capacity) {
  masking k;
  writer w = {masked, 0, capacity};
  begin_masking(&k, &m->masks, text, length);
  for (size_t at = 0;; find_value(&k)) {
    char placeholder[4];
    put(&w, text + at, k.start - at);
    if (!k.placeholder) return end(&w);
    put(&w, placeholder, (size_t)write_point(k.placeholder, (u8 *)placeholder));
    at = k.end;
  }
}

int nc_info(nc *m, char *json, size_t capacity) {
  writer w = {json, 0, capacity};
  put_text(&w, "{\"name\": ");
  put_string(&w, (const char *)m->name, m->name_bytes);
  put_text(&w, m->starts_line ? ", \"kind\": \"records\"" : ", \"kind\": \"text\"");
  put_text(&w, m->is_bytes ? ", \"alphabet\": \"bytes\"" : ", \"alphabet\": \"characters\"");
  put_text(&w, ", \"layers\": ");
  put_number(&w, m->layers, 0);
  put_text(&w, ", \"units\": ");
  put_number(&w, m->layer[m->layers - 1].units, 0);
  put_text(&w, ", \"characters\": ");
  put_number(&w, m->V - 1, 0);
  put_text(&w, ", \"known_characters\": ");
  put_number(&w, m->text_count, 0);
  put_text(&w, m->masks.count ? ", \"masked\": true" : ", \"masked\": false");
  put_text(&w, m->scores.calibration.count ? ", \"calibrated\": true" : ", \"calibrated\": false");
  put_text(&w, "}");
  return end(&w);
}

END_SMALL

/* ---- memory of WebAssembly */

#ifdef __wasm__
extern u8 __heap_base;
static size_t allocated;

void *nc_alloc(size_t size) {
  size_t first = allocated ? allocated : ((size_t)&__heap_base + 15) & ~(size_t)15;
  size_t pages = __builtin_wasm_memory_size(0), last = first + ((size + 15) & ~(size_t)15);
  if (last < first) return 0;
  if (last > pages << 16 && __builtin_wasm_memory_grow(0, (last - (pages << 16) + 0xFFFF) >> 16) == (size_t)-1)
    return 0;
  allocated = last;
  return (void *)first;
}

SMALL nc *nc_load(const void *file, size_t size, const void *tables, size_t tables_size) {
  if (!is_file(file, size)) return 0;
  room given = tables_of(file, tables, tables_size);
  size_t wanted = count_memory(file, given);
  void *memory = wanted ? nc_alloc(wanted) : 0;
  if (!wanted) return 0;
  if (!memory) return failed("there is too little memory"), (nc *)0;
  return open_checked(file, given, memory, wanted);
}
#endif
