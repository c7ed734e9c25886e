/* Scores of lines, a part of nextchar.c: models/text/ngram.py, word_ngram.py, line_tokens.py and templates.py,
   and aggregate.py, calibration.py and tail.py of models/anomaly. */

#define MAX_LINE 50000  /* characters of a masked line that has a score */
#define MAX_TOKENS 128  /* of a line; the rest is one value */
#define MAX_TOKEN 64    /* characters of a word that is no value */
#define MAX_WORD 1024   /* bytes; a longer one is unknown */
#define WORD_WINDOW 8
#define MAX_WINDOW 12
#define ORDER PACK_NGRAM_ORDER
#define SCORE_TOLERANCE 0.05
#define MAX_EXTRAPOLATION 100

static double log2_double(double x) { /* of a positive, normal number */
  u64 bits;
  copy(&bits, &x, 8);
  int e = (int)(bits >> 52) - 1023;
  bits = (bits & 0xFFFFFFFFFFFFFu) | (u64)1023 << 52;
  copy(&x, &bits, 8);
  if (x > 1.4142135623730951) x *= 0.5, e += 1;
  double s = (x - 1) / (x + 1), square = s * s, sum = 0;
  for (int k = 21; k > 0; k -= 2) sum = sum * square + 1.0 / k;
  return e + 2 * s * sum * BITS;
}

static double exp2_double(double x) {
  if (!(x > -1000)) return 0;
  if (x > 1000) x = 1000;
  int n = (int)(x < 0 ? x - 0.5 : x + 0.5);
  double r = (x - n) / BITS, sum = 1, power;
  for (int k = 16; k > 0; k--) sum = 1 + sum * r / k;
  u64 bits = (u64)(n + 1023) << 52;
  copy(&power, &bits, 8);
  return sum * power;
}

static const u32 *numbers_in(const u8 *file, u32 type, u32 index, u32 *count) {
  u64 bytes;
  const u32 *found = section(file, type, index, &bytes);
  *count = found && bytes >> 31 == 0 ? (u32)(bytes / 4) : 0;
  return found;
}

static int is_below(const u32 *numbers, u32 count, u64 limit) {
  for (u32 i = 0; i < count; i++)
    if (numbers[i] >= limit) return 0;
  return 1;
}

static int is_ascending(const u32 *numbers, u32 count, u64 last) {
  for (u32 i = 0; i < count; i++)
    if (numbers[i] > last || (i && numbers[i] < numbers[i - 1])) return 0;
  return 1;
}

/* Check the n-grams of characters, or with `first` 8 of words. */
static int lay_out_ngrams(ngrams *n, const u8 *file, u32 first) {
  u32 contexts = 1;
  for (n->order = 0; n->order < ORDER; n->order++) {
    u32 index = first + (u32)n->order, starts, counts;
    u64 bytes;
    gram_order *own = &n->orders[n->order];
    own->ids = section(file, PACK_NGRAM_IDS, index, &bytes);
    if (!own->ids) return 1;
    own->starts = numbers_in(file, PACK_NGRAM_STARTS, index, &starts);
    own->counts = numbers_in(file, PACK_NGRAM_COUNTS, index, &counts);
    if (!own->starts || !own->counts || starts != contexts + 1 || bytes / 2 != counts || !counts || own->starts[0] ||
        own->starts[contexts] != counts || !is_ascending(own->starts, starts, counts))
      return damaged();
    for (u32 i = 0; n->order == 0 && i < counts; i++)
      n->total += own->counts[i], n->followers += own->counts[i] > 0;
    contexts = counts;
  }
  return 1;
}

static int lay_out_templates(templates *t, const u8 *file) {
  u32 numbers, bits, slots, values, missing, value_bits, ends;
  u64 bytes;
  t->rows = numbers_in(file, PACK_TEMPLATES, 0, &numbers);
  if (!t->rows) return 1;
  t->texts = section(file, PACK_STRINGS, 0, &bytes);
  t->text_ends = numbers_in(file, PACK_STRING_ENDS, 0, &ends);
  t->tokens = numbers_in(file, PACK_TOKENS, 0, &t->tokens_count);
  t->slots = numbers_in(file, PACK_TEMPLATE_SLOTS, 0, &slots);
  t->values = numbers_in(file, PACK_VALUES, 0, &values);
  t->common = numbers_in(file, PACK_COMMON, 0, &t->common_count);
  t->bits = (const double *)(const void *)numbers_in(file, PACK_TEMPLATE_BITS, 0, &bits);
  t->missing = (const double *)(const void *)numbers_in(file, PACK_SLOT_MISSING, 0, &missing);
  t->value_bits = (const double *)(const void *)numbers_in(file, PACK_VALUE_BITS, 0, &value_bits);
  t->count = numbers / PACK_TEMPLATE_NUMBERS, slots /= PACK_SLOT_NUMBERS;
  int is_good = t->texts && t->text_ends && ends && t->tokens && t->slots && t->values && t->common &&
                t->bits && t->missing && t->value_bits && t->count <= PACK_MAX_TEMPLATES &&
                bits / 2 == t->count + 1 && missing / 4 == slots && value_bits / 2 == values &&
                is_ascending(t->text_ends, ends, bytes) && is_below(t->values, values, ends) &&
                is_below(t->common, t->common_count, ends) &&
                is_below(t->tokens, t->tokens_count, (u64)ends + PACK_FIRST_STRING);
  for (u32 i = 0; is_good && i < slots; i++) {
    const u32 *own = t->slots + PACK_SLOT_NUMBERS * i;
    is_good = (u64)own[PACK_VALUES_AT] + own[PACK_VALUES_COUNT] <= values &&
              (u64)own[PACK_SHAPES_AT] + own[PACK_SHAPES_COUNT] <= values;
  }
  for (u32 i = 0; is_good && i < t->count; i++) {
    const u32 *own = t->rows + PACK_TEMPLATE_NUMBERS * i;
    is_good = own[PACK_STRUCTURE] < ends && own[PACK_FIRST_WORD] < ends && own[PACK_TOKENS_COUNT] <= MAX_TOKENS + 1 &&
              (u64)own[PACK_TOKENS_AT] + own[PACK_TOKENS_COUNT] <= t->tokens_count;
    u32 wildcards = 0;
    for (u32 k = 0; is_good && k < own[PACK_TOKENS_COUNT]; k++)
      wildcards += t->tokens[own[PACK_TOKENS_AT] + k] < PACK_FIRST_STRING;
    is_good = is_good && (u64)own[PACK_SLOTS_AT] + wildcards <= slots;
  }
  return is_good || damaged();
}

static int lay_out_calibration(calibration *c, const u8 *file) {
  u64 bytes;
  c->buckets = section(file, PACK_BUCKETS, 0, &bytes);
  if (!c->buckets) return 1;
  c->count = (u32)(bytes / 8 / PACK_BUCKET_NUMBERS);
  if (!c->count || c->count > PACK_MAX_BUCKETS) return damaged();
  for (u64 i = 0; i < bytes / 8; i++)
    if (!(c->buckets[i] > -1e30 && c->buckets[i] < 1e30)) return damaged();
  for (u32 b = 0; b < c->count; b++) {
    const double *own = c->buckets + PACK_BUCKET_NUMBERS * b;
    if (!(own[PACK_KEPT] >= 1 && own[PACK_SCALE_OF_TAIL] > 0 && own[PACK_STATISTICS] >= 1 &&
          own[PACK_STATISTICS] <= PACK_MAX_STATISTICS))
      return damaged();
    for (u32 row = 0; row <= PACK_MAX_STATISTICS; row++) {
      if (row < PACK_MAX_STATISTICS && row >= (u32)own[PACK_STATISTICS]) continue;
      ranks *r = &c->ranks[b][row];
      u32 counts;
      r->values = (const f32 *)(const void *)numbers_in(file, PACK_RANK_VALUES, (PACK_MAX_STATISTICS + 1) * b + row, &r->count);
      r->counts = numbers_in(file, PACK_RANK_COUNTS, (PACK_MAX_STATISTICS + 1) * b + row, &counts);
      if (!r->values || !r->counts || !r->count || counts != r->count || !is_finite(r->values, r->count))
        return damaged();
    }
  }
  return 1;
}

static int lay_out_scores(scores *s, const u8 *file, room *room) {
  u64 bytes;
  u32 ids;
  if (!lay_out_ngrams(&s->characters, file, 0) || !lay_out_ngrams(&s->words, file, 8) ||
      !lay_out_templates(&s->templates, file) || !lay_out_calibration(&s->calibration, file))
    return 0;
  s->classes = numbers_in(file, PACK_CLASSES, 0, &s->classes_count);
  s->word_texts = section(file, PACK_WORD_TEXTS, 0, &bytes);
  s->word_ends = numbers_in(file, PACK_WORD_ENDS, 0, &s->words_count);
  s->word_ids = numbers_in(file, PACK_WORD_IDS, 0, &ids);
  if (s->words.order && (!s->word_texts || !s->word_ends || !s->word_ids || ids != s->words_count ||
                         !is_ascending(s->word_ends, s->words_count, bytes)))
    return damaged();
  if (s->calibration.count && !s->classes_count) return damaged();
  if (s->calibration.count) {
    s->line = take(room, MAX_LINE + 1, sizeof(u32));
    s->known = take(room, MAX_LINE + 1, sizeof(u32));
  }
  return 1;
}

/* ---- what is in a line */

/* Whether a code point is alphanumeric, a decimal digit or a space, as PACK_IS_ALPHANUMERIC and so on. */
static u32 class_of(const scores *s, u32 point) {
  u32 low = 0, high = s->classes_count;
  while (high - low > 1) {
    u32 middle = (low + high) / 2;
    if ((s->classes[middle] & 0xFFFFFF) <= point) low = middle;
    else high = middle;
  }
  return (s->classes[low] & 0xFFFFFF) <= point ? s->classes[low] >> 24 : 0;
}

static int is_space(const scores *s, u32 point) { return (class_of(s, point) & PACK_IS_SPACE) != 0; }
static int is_letter_of(const scores *s, u32 point) {
  return (class_of(s, point) & (PACK_IS_ALPHANUMERIC | PACK_IS_DECIMAL)) == PACK_IS_ALPHANUMERIC;
}
static int is_delimiter(u32 point) {
  for (const char *one = "=,;&|?()[]{}<>\"':"; *one; one++)
    if (point == (u8)*one) return 1;
  return 0;
}

typedef struct { /* of a line's points, from `from` to before `to`, maybe after a space */
  int from, to;
  u8 has_space, is_word, is_value;
} token;

/* Whether a word is 0x and hexadecimal digits, or at least six of them with a decimal one, or a UUID. */
static int is_hex(const u32 *p, int count) {
  int from = count > 2 && p[0] == '0' && (p[1] | 32) == 'x' ? 2 : 0, has_digit = 0, is_plain = 1;
  for (int i = from; i < count; i++) {
    if (p[i] > 127 || !(is_digit((int)p[i]) || (p[i] | 32) - 'a' < 6 || p[i] == '-')) return 0;
    has_digit |= is_digit((int)p[i]), is_plain &= p[i] != '-';
  }
  return (from && is_plain) || (count - from >= 6 && has_digit && p[from] != '-');
}

static int is_value(const scores *s, const u32 *p, int count) {
  int has_letter = 0;
  for (int i = 0; i < count && !has_letter; i++) has_letter = is_letter_of(s, p[i]);
  return count > MAX_TOKEN || !has_letter || is_hex(p, count);
}

/* Split a line into tokens as line_tokens.tokenize; return how many. */
static int tokenize(const scores *s, const u32 *p, int length, token *tokens) {
  int count = 0, at = 0, done = 0;
  while (length && is_space(s, p[length - 1])) length -= 1;
  while (at < length && count < MAX_TOKENS) {
    int space = at;
    while (at < length && is_space(s, p[at])) at++;
    token *own = &tokens[count++];
    int is_text = !is_delimiter(p[at]);
    *own = (token){at, at, space < at, 0, 0};
    while (at < length && is_delimiter(p[at]) != is_text && !is_space(s, p[at])) at++;
    own->to = done = at;
    own->is_value = is_text && is_value(s, p + own->from, at - own->from);
    own->is_word = is_text && !own->is_value;
    if (!own->is_value) own->to = min(at, own->from + MAX_TOKEN);
  }
  while (done < length && is_space(s, p[done])) done++;
  if (done < length) tokens[count++] = (token){done, length, 0, 0, 1};
  return count;
}

/* ---- templates */

static const u8 *string_of(const templates *t, u32 index, size_t *bytes) {
  u32 from = index ? t->text_ends[index - 1] : 0;
  *bytes = t->text_ends[index] - from;
  return t->texts + from;
}

/* Compare a string with a text: a space before it if `has_space`. With `is_start` the string may go on. */
static int is_string(const templates *t, u32 index, int has_space, const u32 *p, int from, int to) {
  size_t bytes, at = 0;
  const u8 *own = string_of(t, index, &bytes);
  if (has_space && (!bytes || own[at++] != ' ')) return 0;
  for (int i = from; i < to; i++)
    if (at >= bytes || next_point(own, bytes, &at) != p[i]) return 0;
  return at == bytes;
}

/* Whether a string is where words, delimiters and spaces are in a line. */
static int has_structure(const templates *t, u32 index, const u32 *p, const token *tokens, int count) {
  size_t bytes, at = 0;
  const u8 *own = string_of(t, index, &bytes);
  for (int i = 0; i < count; i++) {
    const token *one = &tokens[i];
    if (one->has_space && (at >= bytes || own[at++] != ' ')) return 0;
    for (int k = one->from; k < (one->is_word || one->is_value ? one->from + 1 : one->to); k++)
      if (at >= bytes || own[at++] != (one->is_word || one->is_value ? 'w' : p[k])) return 0;
  }
  return at == bytes;
}

static int is_common(const templates *t, const u32 *p, const token *one) {
  for (u32 i = 0; i < t->common_count; i++)
    if (is_string(t, t->common[i], 0, p, one->from, one->to)) return 1;
  return 0;
}

/* The first word that is not common, or NULL if it has digits or there is none. */
static const token *first_word(const scores *s, const u32 *p, const token *tokens, int count) {
  for (int i = 0; i < count; i++) {
    const token *one = &tokens[i];
    if ((i && !one->has_space) || !one->is_word || is_common(&s->templates, p, one)) continue;
    for (int k = one->from; k < one->to; k++)
      if (class_of(s, p[k]) & PACK_IS_DECIMAL) return 0;
    return one;
  }
  return 0;
}

static int is_fixed_like(const templates *t, u32 own, const u32 *p, const token *one) {
  return is_string(t, own - PACK_FIRST_STRING, one->has_space, p, one->from, one->to);
}

/* The template that the tokens match, of several the one with the fewest wildcards; -1: none. */
static int match_template(const scores *s, const u32 *p, const token *tokens, int count) {
  const templates *t = &s->templates;
  const token *word = first_word(s, p, tokens, count);
  int best = -1, fewest = MAX_TOKENS + 2;
  for (u32 i = 0; i < t->count; i++) {
    const u32 *own = t->rows + PACK_TEMPLATE_NUMBERS * i;
    if (own[PACK_TOKENS_COUNT] != (u32)count) continue;
    int wildcards = 0, is_same = 1;
    for (int k = 0; k < count && is_same; k++) {
      u32 one = t->tokens[own[PACK_TOKENS_AT] + (u32)k];
      wildcards += one < PACK_FIRST_STRING;
      is_same = one < PACK_FIRST_STRING || is_fixed_like(t, one, p, &tokens[k]);
    }
    if (!is_same || wildcards >= fewest || !has_structure(t, own[PACK_STRUCTURE], p, tokens, count)) continue;
    if (!is_string(t, own[PACK_FIRST_WORD], 0, p, 0, 0) &&
        !(word && is_string(t, own[PACK_FIRST_WORD], 0, p, word->from, word->to)))
      continue;
    best = (int)i, fewest = wildcards;
  }
  return best;
}

static double bits_among(const templates *t, u32 at, u32 count, double missing, const u32 *p, int from, int to) {
  for (u32 i = at; i < at + count; i++)
    if (is_string(t, t->values[i], 0, p, from, to)) return t->value_bits[i];
  return missing;
}

/* Write the shape of a value: `a` for letters, `0` for digits; return its length. */
static int shape_of(const scores *s, const u32 *p, int from, int to, u32 *shape) {
  int used = 0;
  for (int i = from; i < min(to, from + MAX_TOKEN);) {
    int is_decimal = (class_of(s, p[i]) & PACK_IS_DECIMAL) != 0, last = min(to, from + MAX_TOKEN);
    if (!is_decimal && !is_letter_of(s, p[i])) {
      shape[used++] = p[i++];
      continue;
    }
    shape[used++] = is_decimal ? '0' : 'a';
    while (i < last && (is_decimal ? (class_of(s, p[i]) & PACK_IS_DECIMAL) != 0 : is_letter_of(s, p[i]))) i++;
  }
  return used;
}

typedef struct { /* templates.ParsedLine, as far as a score needs it */
  int index; /* of the template, -1: it is new */
  double template_bits, parameter_bits;
} parsed_line;

static parsed_line parse_line(const scores *s, const u32 *p, int length) {
  static token tokens[MAX_TOKENS + 1];
  const templates *t = &s->templates;
  int count = tokenize(s, p, length, tokens);
  parsed_line found = {match_template(s, p, tokens, count), t->bits[t->count], 0};
  if (found.index < 0) return found;
  const u32 *own = t->rows + PACK_TEMPLATE_NUMBERS * (u32)found.index;
  found.template_bits = t->bits[found.index];
  for (u32 k = 0, slot = own[PACK_SLOTS_AT]; k < (u32)count; k++) {
    u32 shape[MAX_TOKEN];
    const u32 *row = t->slots + PACK_SLOT_NUMBERS * slot;
    if (t->tokens[own[PACK_TOKENS_AT] + k] >= PACK_FIRST_STRING) continue;
    int from = tokens[k].from, to = tokens[k].to, used = shape_of(s, p, from, to, shape);
    double by_value = bits_among(t, row[PACK_VALUES_AT], row[PACK_VALUES_COUNT], t->missing[2 * slot], p, from, to);
    double by_shape = bits_among(t, row[PACK_SHAPES_AT], row[PACK_SHAPES_COUNT], t->missing[2 * slot + 1], shape, 0, used);
    double rarest = by_value > by_shape ? by_value : by_shape;
    if (rarest > found.parameter_bits) found.parameter_bits = rarest;
    slot += 1;
  }
  return found;
}

/* ---- n-grams */

typedef struct { /* where the n-grams before a character are, of each length; -1: there is none */
  i64 context[ORDER];
  int read;
} gram_state;

/* Return the bits of an id by its n-grams, and read it; `first` is its probability without any. */
static double read_gram(const ngrams *n, gram_state *state, u32 id, double first) {
  double p = first;
  i64 next[ORDER];
  state->context[0] = 0;
  for (int k = 0; k < n->order; k++) {
    const gram_order *own = &n->orders[k];
    next[k] = -1;
    if (state->context[k] < 0 || state->read < k) continue;
    u32 low = own->starts[state->context[k]], high = own->starts[state->context[k] + 1];
    double total = k ? 0 : n->total, followers = k ? 0 : n->followers, count = 0;
    for (u32 i = low; i < high; i++) {
      if (k) total += own->counts[i], followers += own->counts[i] > 0;
      if (own->ids[i] == id) next[k] = i, count = own->counts[i];
    }
    if (total > 0) p = (count + followers * p) / (total + followers);
  }
  for (int k = n->order - 1; k > 0; k--) state->context[k] = next[k - 1];
  state->read += 1;
  return p > 0 ? -log2_double(p > 1e-300 ? p : 1e-300) : 1000;
}

static u32 word_id(const scores *s, const u8 *word, size_t bytes) {
  u32 low = 0, high = s->words_count;
  while (low < high) {
    u32 middle = (low + high) / 2, from = middle ? s->word_ends[middle - 1] : 0, to = s->word_ends[middle], i = 0;
    while (i < bytes && from + i < to && s->word_texts[from + i] == word[i]) i++;
    if (i == bytes && from + i == to) return s->word_ids[middle];
    if (i < bytes && (from + i == to || s->word_texts[from + i] < word[i])) low = middle + 1;
    else high = middle;
  }
  return 0;
}

/* ---- statistics */

typedef struct { /* highest means of adjacent values, and what is needed of the last ones */
  double last[MAX_WINDOW], total, highest[3], peak[2];
  u32 count;
} windows;

static const u32 WINDOWS[] = {1, 3, MAX_WINDOW};

static void add_value(windows *w, double value) {
  w->last[w->count % MAX_WINDOW] = value;
  w->total += value;
  w->count += 1;
  double sum = 0;
  for (u32 k = 0, n = 0; k < 3; k++) {
    for (; n < WINDOWS[k] && n < w->count; n++) sum += w->last[(w->count - 1 - n) % MAX_WINDOW];
    if (w->count >= WINDOWS[k] && (w->count == WINDOWS[k] || sum / WINDOWS[k] > w->highest[k]))
      w->highest[k] = sum / WINDOWS[k];
  }
}

static void write_means(const windows *w, double *statistics) {
  for (u32 k = 0; k < 3; k++) statistics[k] = w->count < WINDOWS[k] ? w->total / WINDOWS[k] : w->highest[k];
  statistics[3] = w->total / (w->count ? w->count : 1);
}

static void write_words(const scores *s, const u32 *p, int length, double *statistics) {
  static u8 word[MAX_WORD + 8];
  double last[WORD_WINDOW], total = 0, highest = 0, ids = s->words_count + 2;
  double known = 1 / (ids - 1), unknown = exp2_double(-log2_double(ids - 1 > 2 ? ids - 1 : 2) - PACK_UNKNOWN_EXTRA_BITS);
  gram_state state = {{0}, 0};
  u32 count = 0;
  read_gram(&s->words, &state, 1, known);
  for (int at = 0; at <= length;) {
    size_t bytes = 0;
    u32 id = 1, from = (u32)at;
    if (at < length && is_space(s, p[at]) && p[at] != '\n') {
      at++;
      continue;
    }
    if (at == length || p[at] == '\n') at++;
    else {
      while (at < length && (p[at] == '_' || class_of(s, p[at]) & PACK_IS_ALPHANUMERIC)) at++;
      if ((u32)at == from) at++;
      for (int i = (int)from; i < at && bytes <= MAX_WORD; i++) bytes += (size_t)write_point(p[i], word + bytes);
      id = bytes <= MAX_WORD ? word_id(s, word, bytes) : 0;
    }
    double bits = read_gram(&s->words, &state, id, id ? known : unknown), sum = 0;
    last[count++ % WORD_WINDOW] = bits, total += bits;
    for (u32 n = 0; n < WORD_WINDOW && n < count; n++) sum += last[n];
    if (count == WORD_WINDOW || sum / WORD_WINDOW > highest) highest = sum / WORD_WINDOW;
  }
  statistics[0] = count < WORD_WINDOW ? total / WORD_WINDOW : highest;
  statistics[1] = total / count;
}

/* ---- calibration */

static double at_least(const ranks *r, double own) {
  u32 low = 0, high = r->count;
  while (low < high) {
    u32 middle = (low + high) / 2;
    if (r->values[middle] < own) low = middle + 1;
    else high = middle;
  }
  return low < r->count ? r->counts[low] : 0;
}

static double least_p(const double *bucket) {
  return 1 / ((bucket[PACK_HAS_TAIL] > 0 ? MAX_EXTRAPOLATION : 1) * (bucket[PACK_KEPT] + 1));
}

static double tail_of(const double *bucket, double score) {
  double shape = bucket[PACK_SHAPE_OF_TAIL], y = (score - bucket[PACK_START_OF_TAIL]) / bucket[PACK_SCALE_OF_TAIL];
  if (y < 0) y = 0;
  if (shape < 1e-6 && shape > -1e-6) return bucket[PACK_SHARE_OF_TAIL] * exp2_double(-y * BITS);
  double base = 1 + shape * y;
  return base > 0 ? bucket[PACK_SHARE_OF_TAIL] * exp2_double(-log2_double(base) / shape) : 0;
}

/* The score and the p-value of a line of so many characters. */
static double score_line(const calibration *c, const double *statistics, u32 characters, double *p_value) {
  u32 b = 0;
  while (b + 1 < c->count && characters > c->buckets[PACK_BUCKET_NUMBERS * b + PACK_LONGEST_LINE]) b++;
  const double *bucket = c->buckets + PACK_BUCKET_NUMBERS * b, n = bucket[PACK_KEPT];
  double score = 0;
  for (u32 k = 0; k < (u32)bucket[PACK_STATISTICS]; k++) {
    const ranks *r = &c->ranks[b][k];
    double own = statistics[k] - bucket[PACK_TOLERANCES_OF_SCORE + k], beyond = own - r->values[r->count - 1];
    double bits = -log2_double((1 + at_least(r, own)) / (n + 1));
    if (beyond > 0) bits += beyond / (bucket[PACK_SPREADS + k] + 0.05);
    if (k >= PACK_FIRST_OF_TEMPLATES && k < PACK_FIRST_OF_TEMPLATES + 2 && bits > statistics[k]) bits = statistics[k];
    score += bucket[PACK_WEIGHTS_OF_SCORE + k] * bits;
  }
  double reached = at_least(&c->ranks[b][PACK_MAX_STATISTICS], score - SCORE_TOLERANCE);
  *p_value = (1 + reached) / (n + 1);
  if (reached == 0 && bucket[PACK_HAS_TAIL] > 0) {
    double tail = tail_of(bucket, score), least = least_p(bucket);
    tail = tail > least ? tail : least;
    if (tail < *p_value) *p_value = tail;
  }
  return score;
}

/* The rate of false alarms, or 0: there are too few calibration lines for it. */
static double rate_of(const calibration *c, double wanted) {
  double least = 0, smallest = 0;
  int has_tail = 1;
  for (u32 b = 0; b < c->count; b++) {
    const double *own = c->buckets + PACK_BUCKET_NUMBERS * b;
    if (least_p(own) > least) least = least_p(own);
    if (1 / (own[PACK_KEPT] + 1) > smallest) smallest = 1 / (own[PACK_KEPT] + 1);
    has_tail &= own[PACK_HAS_TAIL] > 0;
  }
  if (!(wanted > 0)) return has_tail || smallest < 0.01 ? 0.01 : smallest;
  return wanted < least * (1 - 1e-9) ? 0 : wanted;
}

static u32 point_of_prompt(const nc *m, const prompt *p) { /* which is read next; 0 at its end */
  size_t at = p->at;
  if (p->masking.placeholder && at == p->masking.start) return p->masking.placeholder;
  if (at >= p->length) return 0;
  return m->is_bytes ? (u8)p->text[at] : next_point((const u8 *)p->text, p->length, &at);
}

int nc_score(nc *m, const char *line, size_t length, double false_alarms, char *json, size_t capacity) {
  scores *s = &m->scores;
  writer w = {json, 0, capacity};
  size_t newline = 0, at = 0;
  int after = next_id(m, "\n", 1, &newline), id;
  u32 original = 0, count = 0;
  int has_score = s->calibration.count > 0, has_ngrams = s->characters.order > 0;
  windows bits = {0}, excess = {0}, grams = {0};
  gram_state state = {{0}, 0};
  double statistics[PACK_MAX_STATISTICS] = {0}, total = 0, peak[2] = {0, 0}, rate = rate_of(&s->calibration, false_alarms);
  double known = 1.0 / max(1, m->V - 1), unknown = exp2_double(-m->unknown_bits);
  if (!(false_alarms >= 0 && false_alarms < 1)) return failed("false_alarms must be at least 0 and below 1"), -1;
  if (has_score && !(rate > 0))
    return failed("false_alarms: the calibration has too few lines for this rate; use a larger one"), -1;
  m->reason = NC_LENGTH; /* the row is another one's from here on */
  m->settled = m->held_count = 0;
  for (; at < length; original++) {
    has_score &= line[at] != '\n';
    if (next_id(m, line, length, &at) < 0) return failed("the text is no UTF-8"), -1;
  }
  prompt p = begin_prompt(m, line, length);
  p.is_started = 1;
  zero(m->row, 4 * (size_t)m->S);
  step_network(m, m->row, after, m->logits);
  if (has_ngrams) read_gram(&s->characters, &state, (u32)after, known);
  for (int is_end = 0; !is_end;) {
    u32 point = point_of_prompt(m, &p);
    id = next_of_prompt(m, &p);
    is_end = id == -2;
    if (is_end) id = after;
    if (is_end && !after) break;
    double surprisal = m->unknown_bits, expected = entropy(m, m->logits, 1.0f, id, &surprisal);
    if (surprisal < 0) surprisal = 0;
    add_value(&bits, surprisal), add_value(&excess, surprisal - expected);
    if (has_ngrams) {
      double own = read_gram(&s->characters, &state, (u32)id, id ? known : unknown);
      add_value(&grams, id ? own : m->unknown_bits);
    }
    if (is_end) break;
    if (has_score && count < MAX_LINE) s->line[count] = point;
    count += 1, total += surprisal;
    if (surprisal > peak[0]) peak[1] = peak[0], peak[0] = surprisal;
    else if (surprisal > peak[1]) peak[1] = surprisal;
    step_network(m, m->row, id, m->logits);
  }
  put_text(&w, "{\"characters\": "), put_number(&w, original, 0);
  put_text(&w, ", \"total_bits\": "), put_number(&w, total, 4);
  put_text(&w, ", \"bits_per_character\": "), put_number(&w, total / (original ? original : 1), 4);
  put_text(&w, ", \"peak_bits\": "), put_number(&w, count > 1 ? (peak[0] + peak[1]) / 2 : peak[0], 4);
  if (!has_score || count > MAX_LINE) {
    put_text(&w, ", \"score\": null, \"p_value\": null, \"anomalous\": null, \"known_template\": null}");
    return end(&w);
  }
  int has_templates = s->templates.rows != 0;
  parsed_line parsed = {0, 0, 0};
  write_means(&bits, statistics), write_means(&excess, statistics + 4), write_means(&grams, statistics + 8);
  if (s->words.order) write_words(s, s->line, (int)count, statistics + PACK_FIRST_OF_TEMPLATES + 2);
  if (has_templates) {
    int has_unknown = 0; /* templates were learned with U+FFFD for such characters */
    for (u32 i = 0; i < count; i++) {
      int is_known = id_of(m, s->line[i]) > 0;
      s->known[i] = is_known ? s->line[i] : 0xFFFD;
      has_unknown |= !is_known && s->line[i] != 0xFFFD;
    }
    parsed = parse_line(s, s->known, (int)count);
    if (has_unknown && parsed.index < 0) parsed = parse_line(s, s->line, (int)count);
    statistics[PACK_FIRST_OF_TEMPLATES] = parsed.template_bits;
    statistics[PACK_FIRST_OF_TEMPLATES + 1] = parsed.parameter_bits;
  }
  double p_value, score = score_line(&s->calibration, statistics, count, &p_value);
  put_text(&w, ", \"score\": "), put_number(&w, score, 4);
  put_text(&w, ", \"p_value\": "), put_number(&w, p_value, 9);
  put_text(&w, p_value <= rate ? ", \"anomalous\": true" : ", \"anomalous\": false");
  put_text(&w, ", \"known_template\": ");
  put_text(&w, !has_templates ? "null}" : parsed.index >= 0 ? "true}" : "false}");
  return end(&w);
}
