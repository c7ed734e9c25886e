/* Masks, a part of nextchar.c: models/text/masks.py, mask_program.py and mask_values.py.

   A text is not copied: `masking` says where its next value is, instead of which a placeholder is read. */

#define MAX_PIECE 50000        /* characters of a line that are searched at once */
#define WHOLE_SEARCHES 256     /* in a piece, if there are expressions of a user; later ones see a window */
#define WINDOW_BYTES 2048
#define FIELD_CHARACTERS 6     /* before a value, which tell its field */
#define MAX_FORMAT 256

enum { AT_BEGIN, AT_OTHER, IN_WORD, AT_END }; /* what is before or after a position */

typedef struct { /* a text, as far as it was searched */
  const masks *m;
  const u8 *text;
  size_t length, piece, piece_end, line_end; /* of the piece of a line that is searched */
  size_t position;                           /* where the next search begins */
  size_t start, end;                         /* of the next value */
  u32 placeholder;                           /* for it; 0: there is no value any more */
  int searches, before_count;
  u32 before[FIELD_CHARACTERS];
  size_t before_at;
} masking;

static int lay_out_masks(masks *m, const u8 *file, room *room) {
  u64 count, instructions, sets, rules, texts;
  m->masks = section(file, PACK_MASKS, 0, &count);
  if (!m->masks) return 1;
  m->instructions = section(file, PACK_MASK_PROGRAM, 0, &instructions);
  m->sets = section(file, PACK_MASK_SETS, 0, &sets);
  m->starts = exactly(file, PACK_MASK_STARTS, 0, 3 * 256);
  m->rules = section(file, PACK_MASK_RULES, 0, &rules);
  m->texts = section(file, PACK_MASK_TEXTS, 0, &texts);
  m->count = (u32)(count / 4 / PACK_MASK_NUMBERS), m->instructions_count = (u32)(instructions / 8);
  m->sets_count = (u32)(sets / 32), m->rules_count = (u32)(rules / 4 / PACK_RULE_NUMBERS);
  m->texts_bytes = (u32)texts;
  if (!m->instructions || !m->sets || !m->starts || !m->texts || count > 4096 || !m->count ||
      !m->instructions_count || instructions > 8 * PACK_MAX_INSTRUCTIONS || sets >> 24 || rules >> 24 || texts >> 24)
    return damaged();
  for (u32 i = 0; i < m->count; i++) {
    const u32 *own = m->masks + PACK_MASK_NUMBERS * i;
    m->is_custom |= (own[PACK_MASK_KIND] & PACK_IS_CUSTOM) != 0;
    if (own[PACK_PLACEHOLDER] < 0x80 || own[PACK_PLACEHOLDER] > 0xFFFF) return damaged();
  }
  for (u32 i = 0; i < m->instructions_count; i++) {
    u32 kind = m->instructions[2 * i] & 3, argument = m->instructions[2 * i] >> 2;
    u32 most = kind == PACK_BYTES ? m->sets_count : kind == PACK_SPLIT ? m->instructions_count : kind == PACK_MATCH ? m->count : 4;
    if (argument >= most || m->instructions[2 * i + 1] >= m->instructions_count)
      return damaged();
  }
  for (u32 i = 0; i < m->rules_count; i++) {
    const u32 *own = m->rules + PACK_RULE_NUMBERS * i;
    if ((u64)own[PACK_NAME_AT] + own[PACK_NAME_BYTES] > texts ||
        (u64)own[PACK_FORMATS_AT] + own[PACK_FORMATS_BYTES] > texts)
      return damaged();
  }
  m->threads = take(room, m->instructions_count, sizeof(mask_thread));
  m->next = take(room, m->instructions_count, sizeof(mask_thread));
  m->seen = take(room, m->instructions_count, sizeof(u32));
  m->stack = take(room, 2 * (u64)m->instructions_count + 1, sizeof(u32));
  return 1;
}

static int is_digit(int c) { return c >= '0' && c <= '9'; }
static int is_letter(int c) { return (u32)(c | 32) - 'a' < 26; }
static int is_word_byte(int c) { return is_digit(c) || is_letter(c) || c == '_'; }
static int lower(int c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; }

/* Add what an instruction leads to without reading. Return the mask that matches there, or -1. */
static int add_threads(masks *m, u32 first, size_t from, int before, int after, int *count) {
  int depth = 0;
  m->stack[depth++] = first;
  while (depth) {
    u32 at = m->stack[--depth];
    if (m->seen[at] == m->round) continue;
    m->seen[at] = m->round;
    const u32 *own = m->instructions + 2 * at;
    u32 argument = own[0] >> 2, is_boundary = (before == IN_WORD) != (after == IN_WORD);
    switch (own[0] & 3) {
      case PACK_MATCH: return (int)argument;
      case PACK_BYTES: m->next[(*count)++] = (mask_thread){at, from}; break;
      case PACK_SPLIT: m->stack[depth++] = own[1], m->stack[depth++] = argument; break;
      default:
        if (argument == PACK_BEGINNING ? before == AT_BEGIN : argument == PACK_END ? after == AT_END
                                                       : is_boundary == (argument == PACK_BOUNDARY))
          m->stack[depth++] = own[1];
    }
  }
  return -1;
}

/* Find the first match from `position` on, which begins in the piece's part before `end`. Return its mask, or -1. */
static int search(masks *m, const u8 *text, size_t piece, size_t position, size_t end, size_t piece_end,
                  size_t *start, size_t *stop) {
  int count = 0, found = -1;
  for (size_t at = position;; at++) {
    int before = at == piece ? AT_BEGIN : is_word_byte(text[at - 1]) ? IN_WORD : AT_OTHER;
    int after = at == piece_end ? AT_END : is_word_byte(text[at]) ? IN_WORD : AT_OTHER;
    int alive = 0, matched;
    if (!count && found >= 0) return found;
    if (!count && at < end && !m->starts[256 * before + text[at]]) continue;
    if (!++m->round) zero(m->seen, sizeof(u32) * m->instructions_count), m->round = 1;
    for (int i = 0; i < count; i++) { /* in the order of preference; those after a match are not followed */
      mask_thread own = m->threads[i];
      u32 c = text[at - 1], target = m->instructions[2 * own.at + 1];
      if (!(m->sets[8 * (m->instructions[2 * own.at] >> 2) + (c >> 5)] >> (c & 31) & 1)) continue;
      if ((matched = add_threads(m, target, own.from, before, after, &alive)) >= 0) {
        found = matched, *start = own.from, *stop = at;
        break;
      }
    }
    if (found < 0 && at < end && m->starts[256 * before + text[at]]) {
      matched = add_threads(m, m->instructions_count - 1, at, before, after, &alive);
      if (matched >= 0) found = matched, *start = *stop = at;
    }
    mask_thread *swapped = m->threads;
    m->threads = m->next, m->next = swapped, count = alive;
    if (at == end) return found;
  }
}

static int days_in(int year, int month) {
  int is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
  return month == 2 ? 28 + is_leap : 30 + ((month + month / 8) & 1);
}

static int is_day(int year, int month, int day) {
  return month >= 1 && month <= 12 && day >= 1 && day <= days_in(max(1, year), month);
}

typedef struct { /* reads a text of a time from a place on */
  const u8 *text;
  int at, length;
} cursor;

/* Read from `least` to `most` digits; return their number, or -1. */
static int read_digits(cursor *c, int least, int most) {
  int number = 0, count = 0;
  while (count < most && c->at < c->length && is_digit(c->text[c->at]))
    number = 10 * number + c->text[c->at++] - '0', count++;
  return count < least ? -1 : number;
}

static int peek(const cursor *c) { return c->at < c->length ? c->text[c->at] : 0; }

static int read_one(cursor *c, const char *of) {
  for (; *of; of++)
    if (c->at < c->length && c->text[c->at] == (u8)*of) return c->at++, 1;
  return 0;
}

static int read_month(cursor *c) { /* from 1 on; 0: there is none */
  const char *names = "janfebmaraprmayjunjulaugsepoctnovdec";
  for (int n = 0; c->at + 3 <= c->length && n < 12; n++) {
    int is_same = 1;
    for (int i = 0; i < 3; i++) is_same &= lower(c->text[c->at + i]) == names[3 * n + i];
    if (is_same) return c->at += 3, n + 1;
  }
  return 0;
}

/* Whether the first date with a name of a month exists; 1 if there is none. */
static int is_named_date(const u8 *text, int length) {
  for (int from = 0; from < length; from++) {
    for (int digits = 2; digits > 0; digits--) {
      cursor c = {text, from, length};
      int day = read_digits(&c, digits, digits), month, year;
      if (day >= 0 && read_one(&c, "-/ ") && (month = read_month(&c)) && read_one(&c, "-/ ") &&
          (year = read_digits(&c, 4, 4)) >= 0)
        return is_day(year, month, day);
    }
    cursor c = {text, from, length};
    int month = read_month(&c), day;
    if (!month || peek(&c) != ' ') continue;
    while (peek(&c) == ' ') c.at++;
    if ((day = read_digits(&c, 1, 2)) >= 0) return is_day(2000, month, day);
  }
  return 1;
}

static int is_time(const u8 *text, int length) {
  cursor c = {text, 0, length};
  int year, month, day, first, second, from = 0;
  if (!is_named_date(text, length)) return 0;
  year = read_digits(&c, 4, 4);
  if (year >= 0) read_one(&c, "-./");
  month = year < 0 ? -1 : read_digits(&c, 2, 2);
  if (month >= 0) read_one(&c, "-./");
  day = month < 0 ? -1 : read_digits(&c, 2, 2);
  if (day >= 0 && !is_digit(peek(&c))) {
    if (!is_day(year, month, day)) return 0;
    from = c.at;
  } else {
    c.at = 0;
    first = read_digits(&c, 1, 2);
    second = first >= 0 && read_one(&c, "/") ? read_digits(&c, 1, 2) : -1;
    if (second >= 0 && read_one(&c, "/")) {
      int at = c.at;
      year = read_digits(&c, 4, 4);
      int is_short = year < 0;
      if (is_short) c.at = at, year = read_digits(&c, 2, 2);
      if (year >= 0 && !is_digit(peek(&c))) {
        if (!is_day(2000, second, first) && !is_day(2000, first, second) && !(is_short && is_day(2000, second, year)))
          return 0;
        from = c.at;
      }
    }
  }
  for (int at = from; at < length; at++) {
    if (at > from && is_digit(text[at - 1])) continue;
    c.at = at;
    int hours = read_digits(&c, 1, 2);
    if (hours < 0 || !read_one(&c, ":.")) continue;
    int minutes = read_digits(&c, 1, 2);
    if (minutes < 0 || !read_one(&c, ":.")) continue;
    int seconds = read_digits(&c, 1, 2);
    if (seconds >= 0 && !is_digit(peek(&c))) return hours <= 24 && minutes <= 59 && seconds <= 60;
  }
  return 1;
}

static int is_address(const u8 *text, int length) { /* 1 if it is none of four decimal numbers */
  cursor c = {text, 0, length};
  int is_good = 1;
  for (int n = 0; n < 4; n++) {
    int part = read_digits(&c, 1, 4);
    if (part < 0 || (n < 3 && !read_one(&c, "."))) return 1;
    is_good &= part <= 255;
  }
  return c.at < length || is_good;
}

static int is_clock_before(const u8 *text, int at) {
  for (int i = 1; i <= 7; i++)
    if (i > at || !(i == 3 || i == 6 ? text[at - i] == ':' || text[at - i] == '.' : is_digit(text[at - i]))) return 0;
  return 1;
}

/* Write the format of a time, or the prefix of a number; return its bytes, -1 if it is too long. */
static int format_of(u32 kind, const u8 *text, int length, u8 *format) {
  u8 plain[MAX_FORMAT];
  int n = 0, used = 0;
  if (kind & PACK_IS_LOOSE) return 0;
  if (!(kind & PACK_IS_TIME)) {
    if (length < 2 || text[0] != '0' || lower(text[1]) != 'x') return 0;
    return format[0] = '0', format[1] = 'x', 2;
  }
  for (int i = 0; i < length;) { /* without fractions of a second */
    if (i + 1 < length && (text[i] == '.' || text[i] == ',' || text[i] == ':') && is_digit(text[i + 1]) &&
        is_clock_before(text, i)) {
      for (i++; i < length && is_digit(text[i]);) i++;
      continue;
    }
    if (n == MAX_FORMAT) return -1;
    plain[n++] = text[i++];
  }
  if (n && plain[n - 1] == 'Z') n -= 1; /* without a time zone */
  else
    for (int colon = 0; colon < 2; colon++) {
      int at = n - 5 - colon;
      if (at < 0 || (plain[at] != '+' && plain[at] != '-') || (colon && plain[n - 3] != ':')) continue;
      if (!is_digit(plain[n - 1]) || !is_digit(plain[n - 2]) || !is_digit(plain[at + 1]) || !is_digit(plain[at + 2]))
        continue;
      n = at > 0 && plain[at - 1] == ' ' ? at - 1 : at;
      break;
    }
  for (int i = 0; i < n;) {
    int from = i, c = plain[i];
    if (c == ' ' || (c >= 9 && c <= 13)) {
      for (; i < n && (plain[i] == ' ' || (plain[i] >= 9 && plain[i] <= 13)); i++) {}
      if (used && i < n) format[used++] = ' ';
    } else if (is_digit(c)) {
      while (i < n && is_digit(plain[i])) i++;
      for (int k = 0; k < (i - from < 3 ? 1 : i - from); k++) format[used++] = '0';
    } else if (is_letter(c)) {
      while (i < n && is_letter(plain[i])) i++;
      format[used++] = 'a';
    } else {
      format[used++] = (u8)c, i++;
    }
  }
  return used;
}

static int is_equal(const u8 *a, const u8 *b, size_t bytes) {
  for (size_t i = 0; i < bytes; i++)
    if (a[i] != b[i]) return 0;
  return 1;
}

/* Whether a number is at most a limit; 1 if the text is none. */
static int is_at_most(const u8 *text, int length, i64 limit) {
  i64 number = 0;
  for (int i = 0; i < length; i++)
    if (!is_digit(text[i])) return 1;
  if (length > 18) return 0;
  for (int i = 0; i < length; i++) number = 10 * number + text[i] - '0';
  return number <= limit;
}

/* Whether `port`, and one of ` =:`, is before a value. */
static int is_port(const masking *k) {
  const u32 *end = k->before + k->before_count;
  if (k->before_count < 5 || (end[-1] != ' ' && end[-1] != '=' && end[-1] != ':')) return 0;
  for (int i = 0; i < 4; i++)
    if (end[i - 5] > 127 || lower((int)end[i - 5]) != "port"[i]) return 0;
  return 1;
}

/* FieldValues.has_like */
static int has_like(const masking *k, const u32 *rule, u32 kind, const u8 *text, int length, int after, int is_field) {
  const masks *m = k->m;
  u32 flags = rule[PACK_RULE_FLAGS];
  if (flags & PACK_CHECKS_EXISTENCE &&
      (kind & PACK_IS_TIME ? !is_time(text, length) : kind & PACK_IS_ADDRESS && !is_address(text, length)))
    return 0;
  if (kind & PACK_HAS_ANY_LENGTH) return 1;
  if (is_field && flags & PACK_HAS_FORMATS) {
    u8 format[MAX_FORMAT];
    int own = format_of(kind, text, length, format), is_known = 0;
    const u8 *at = m->texts + rule[PACK_FORMATS_AT], *end = at + rule[PACK_FORMATS_BYTES];
    while (own >= 0 && at < end && !is_known) {
      const u8 *last = at;
      while (last < end && *last) last++;
      is_known = last - at == own && is_equal(at, format, (size_t)own);
      at = last + 1;
    }
    if (!is_known) return 0;
  }
  if (kind & PACK_IS_TIME) return 1;
  int from = length >= 2 && text[0] == '0' && lower(text[1]) == 'x' ? 2 : 0, shortest = (int)rule[PACK_SHORTEST];
  for (int i = from; i < length; i++) {
    if (text[i] >= 'a' && text[i] <= 'z' && !(flags & PACK_HAS_LOWER)) return 0;
    if (text[i] >= 'A' && text[i] <= 'Z' && !(flags & PACK_HAS_UPPER)) return 0;
  }
  int longest = (int)rule[PACK_LONGEST], is_fixed = shortest == longest;
  if (flags & (PACK_HAS_LOWER | PACK_HAS_UPPER)) {
    if (length < shortest - !is_fixed || length > longest + !is_fixed) return 0;
  } else if (is_fixed && flags & PACK_IS_PADDED) {
    if (length != longest) return 0;
  } else if (length > longest + 1 || (is_fixed && longest >= 9 && length < longest)) {
    return 0;
  }
  if (flags & PACK_IS_PERCENT && after == '%' && !is_at_most(text, length, 100)) return 0;
  return !(flags & PACK_IS_PORT && is_port(k) && !is_at_most(text, length, 65535));
}

/* MaskValues.is_well_formed */
static int is_well_formed(const masking *k, const u32 *mask, const u8 *text, int length, int after) {
  const masks *m = k->m;
  u8 name[4 * FIELD_CHARACTERS + 2];
  int bytes = 0, is_short = (mask[PACK_MASK_KIND] & PACK_IS_SHORT) != 0;
  if (!m->rules || !mask[PACK_MASK_GROUP]) return !is_short;
  const u32 *field = 0, *all = 0;
  name[bytes++] = ' ';
  for (int i = 0; i < k->before_count; i++) bytes += write_point(k->before[i], name + bytes);
  if (after == '%') name[bytes++] = '%';
  for (u32 i = 0; i < m->rules_count; i++) {
    const u32 *own = m->rules + PACK_RULE_NUMBERS * i;
    if (own[PACK_RULE_GROUP] != mask[PACK_MASK_GROUP]) continue;
    if (!own[PACK_NAME_BYTES]) all = own;
    else if (own[PACK_NAME_BYTES] == (u32)bytes && is_equal(m->texts + own[PACK_NAME_AT], name, (size_t)bytes))
      field = own;
  }
  if (is_short) return field && field[PACK_RULE_FLAGS] & PACK_HAS_SHORT;
  const u32 *known = field ? field : all;
  if (!known || !(known[PACK_RULE_FLAGS] & PACK_IS_KNOWN)) return 1;
  return has_like(k, known, mask[PACK_MASK_KIND], text, length, after, field != 0);
}

/* Take the characters before `end` for the field of the value there. */
static void read_before(masking *k, size_t end) {
  while (k->before_at < end) {
    u32 point = next_point(k->text, end, &k->before_at);
    if (point == '\n') k->before_count = 0;
    else {
      if (k->before_count == FIELD_CHARACTERS) move(k->before, k->before + 1, 4 * (FIELD_CHARACTERS - 1)), k->before_count--;
      k->before[k->before_count++] = point == NO_POINT ? '?' : point;
    }
  }
}

/* Divide what is left of a line as `_divide` of masks.py; `piece` is where the next piece begins. */
static void find_piece(masking *k) {
  size_t at = k->piece, space = 0;
  for (int n = 0; at < k->line_end; n++) {
    if (n == MAX_PIECE) {
      k->piece_end = space ? space : at;
      return;
    }
    if (n >= MAX_PIECE / 2 && k->text[at] == ' ') space = at + 1;
    for (at++; at < k->line_end && (k->text[at] & 0xC0) == 0x80;) at++;
  }
  k->piece_end = k->line_end;
}

static void find_line(masking *k, size_t from) {
  k->line_end = k->position = k->piece = from;
  while (k->line_end < k->length && k->text[k->line_end] != '\n') k->line_end++;
  k->searches = 0;
  find_piece(k);
}

/* Find the next value that is masked; a placeholder of 0 says that there is none. */
static void find_value(masking *k) {
  masks *m = (masks *)(size_t)k->m;
  k->placeholder = 0, k->start = k->end = k->length;
  for (;;) {
    if (k->position >= k->piece_end) {
      if (k->piece_end == k->line_end) {
        if (k->line_end == k->length) return;
        find_line(k, k->line_end + 1);
      } else {
        k->position = k->piece = k->piece_end, k->searches = 0;
        find_piece(k);
      }
      if (k->position >= k->piece_end) continue;
    }
    size_t end = k->piece_end, last = end, start = 0, stop = 0;
    if (!m->is_custom || k->searches < WHOLE_SEARCHES) k->searches++;
    else if (end - k->position > WINDOW_BYTES)
      end = k->position + WINDOW_BYTES, last = k->position + WINDOW_BYTES / 2;
    int found = search(m, k->text, k->piece, k->position, end, k->piece_end, &start, &stop);
    if (end < k->piece_end && (found < 0 || start > last)) {
      k->position = last;
    } else if (found < 0) {
      k->position = k->piece_end;
    } else if (start == stop) {
      k->position = start + 1;
    } else {
      const u32 *mask = m->masks + PACK_MASK_NUMBERS * (u32)found;
      int after = stop < k->length ? k->text[stop] : 0, is_masked;
      read_before(k, start);
      is_masked = stop - start < (size_t)1 << 30 && is_well_formed(k, mask, k->text + start, (int)(stop - start), after);
      if (k->before_count == FIELD_CHARACTERS) move(k->before, k->before + 1, 4 * (FIELD_CHARACTERS - 1)), k->before_count--;
      k->before[k->before_count++] = '#', k->before_at = k->position = stop;
      if (!is_masked) continue;
      k->start = start, k->end = stop, k->placeholder = mask[PACK_PLACEHOLDER];
      return;
    }
  }
}

/* Begin to mask a text; `m` NULL or without masks: it has no values. */
static void begin_masking(masking *k, const masks *m, const char *text, size_t length) {
  zero(k, sizeof *k);
  k->m = m, k->text = (const u8 *)text, k->length = k->start = k->end = length;
  if (!m->count) return;
  find_line(k, 0);
  find_value(k);
}
