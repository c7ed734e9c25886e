/* Completion, suggestions and scores of a model in one file, without a server: docs/reference/pack.md.

   A model is opened in memory that its caller provides; after that nothing is allocated, and nothing but
   arithmetic is needed. Texts are UTF-8, in Unicode normalization form C. Functions that fail return 0, or a
   negative number, and nc_error() says why. One thread at a time may use a model. */

#ifndef NEXTCHAR_H
#define NEXTCHAR_H

#include <stddef.h>
#include <stdint.h>

typedef struct nc nc;

#define NC_API __attribute__((visibility("default"), used))

/* Where a completion ends, besides max_characters and stops. */
enum nc_until { NC_UNTIL_NOTHING, NC_UNTIL_WORD, NC_UNTIL_LINE, NC_UNTIL_CONFIDENCE };

/* Why it has ended. */
enum nc_reason { NC_GOES_ON, NC_LENGTH, NC_STOP, NC_WORD, NC_LINE, NC_CONFIDENCE };

/* What is wrong with the last call that failed. */
NC_API const char *nc_error(void);

#ifndef __wasm__
/* How many bytes of memory nc_open needs for the contents of a file; 0 if they are damaged. */
NC_API size_t nc_memory(const void *file, size_t size);

/* Open the contents of a file, which must stay where they are, aligned to 8 bytes, in memory that is aligned
   to 16. `tables`, aligned to 16 bytes or NULL, are those that nc_tables has returned for the same file, and must
   stay as well: then it opens at once. Damaged ones and those of other files are not used. */
NC_API nc *nc_open(const void *file, size_t size, const void *tables, size_t tables_size, void *memory,
                   size_t memory_size);
#endif

/* Make some of what is left of the tables, each part of which is made when it is needed otherwise. Return whether
   something is left. */
NC_API int nc_make(nc *model);

/* Return the tables, and their bytes; NULL: they are in the model's file. What is left of them is made. */
NC_API const void *nc_tables(nc *model, size_t *size);

/* Begin to complete a prompt. What its beginning has in common with earlier prompts is not read again.
   `index` numbers the completions of one seed. top_k 0, top_p 1 and min_p 0 filter nothing. `stops` are
   strings, each of which ends with a zero byte, `stops_length` bytes in all. Return 1. */
NC_API int nc_complete_start(nc *model, const char *prompt, size_t length, uint32_t max_characters,
                             double temperature, uint32_t seed_low, uint32_t seed_high, uint32_t index,
                             uint32_t top_k, double top_p, double min_p, int until, double confidence_bits,
                             const char *stops, size_t stops_length);

/* Write some more of the completion into a buffer of at least 16 bytes. Return how many bytes; 0: it has
   ended. */
NC_API int nc_complete_next(nc *model, char *buffer, size_t capacity);

/* Why the completion has ended: an nc_reason; NC_GOES_ON: it has not. */
NC_API int nc_complete_reason(nc *model);

/* The surprisal of the completion so far, in bits. */
NC_API double nc_complete_bits(nc *model);

/* Write the distribution of the next character after a prompt as JSON, and a zero byte:
   {"entropy_bits": 1.5, "candidates": [{"character": "e", "probability": 0.4}]}, the `top` likeliest. Return
   the bytes without the zero. */
NC_API int nc_next(nc *model, const char *prompt, size_t length, double temperature, uint32_t top, char *json,
            size_t capacity);

/* Write the lines of the corpus that a prefix may stand for, likeliest first, as JSON, and a zero byte:
   [{"text": "Berlin", "probability": 0.94, "count": 3, "exists": true, "replaced": {"start": 4, "end": 5}}], at
   most `limit`, up to 50. `context` is read before the prefix, as of lines of a context, a tab and a field; of
   length 0: none. `exclude` are texts, each of which ends with a zero byte, `exclude_length` bytes in all.
   `max_typos` from 0 to 2, or -1: by the length of the prefix. Only models of records have lines. Return the
   bytes without the zero. */
NC_API int nc_suggest(nc *model, const char *prefix, size_t length, const char *context, size_t context_length,
                      const char *exclude, size_t exclude_length, uint32_t limit, int max_typos, char *json,
                      size_t capacity);

/* Write the score of a line as JSON, and a zero byte: {"characters": 40, "total_bits": 61.5,
   "bits_per_character": 1.54, "peak_bits": 9.2, "score": 3.1, "p_value": 0.12, "anomalous": false,
   "known_template": true}, of which the last four are null without a calibration in the file, or for a text of
   several lines. `false_alarms` is the rate of normal lines that are anomalous; 0: the calibration's default.
   Return the bytes without the zero. */
NC_API int nc_score(nc *model, const char *line, size_t length, double false_alarms, char *json, size_t capacity);

/* Write a text, of any number of lines, with placeholders for the values that the model masks, and a zero byte.
   Functions that read a text mask it themselves. Return the bytes without the zero. */
NC_API int nc_mask(nc *model, const char *text, size_t length, char *masked, size_t capacity);

/* Write what the model is as JSON, and a zero byte: {"name": "…", "kind": "records", "layers": 1, …}. Return
   the bytes without the zero. */
NC_API int nc_info(nc *model, char *json, size_t capacity);

/* Forget earlier prompts. */
NC_API void nc_forget(nc *model);

/* Whether prompts from now on are remembered, as at first: 0 for those that are only guessed. */
NC_API void nc_keep(nc *model, int keeps);

#ifdef __wasm__
/* Return memory of a size, aligned to 16 bytes; 0: there is none. It is never freed. */
NC_API void *nc_alloc(size_t size);

/* As nc_open, in memory that is allocated for it; 0: nc_error() says why not. */
NC_API nc *nc_load(const void *file, size_t size, const void *tables, size_t tables_size);
#endif

#endif
