/* A command that completes with a packed model, without a server and without Python. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "nextchar.h"

static const char *USAGE =
    "usage: nextchar-run complete FILE PROMPT [--max-characters N] [--temperature T] [--seed N] [--top-k N]\n"
    "                    [--top-p P] [--min-p P] [--until word|line|confidence] [--stop TEXT]...\n"
    "       nextchar-run next FILE PROMPT [--top N] [--temperature T]\n"
    "       nextchar-run suggest FILE PREFIX [--limit N] [--context TEXT] [--exclude TEXT]... [--typos N]\n"
    "       nextchar-run score FILE [--false-alarms RATE]\n"
    "       nextchar-run info FILE\n"
    "FILE is what `nextchar pack` writes; with --tables it opens at once. Texts are UTF-8 in NFC.\n"
    "`score` reads lines and writes the score of each as JSON, with p-value and flag if the file has a calibration.\n";

static int fail(const char *what, const char *why) {
  fprintf(stderr, "nextchar-run: %s%s%s\n", what, *why ? ": " : "", why);
  return 2;
}

typedef struct {
  const char *command, *file, *text, *context;
  double temperature, top_p, min_p, false_alarms;
  uint64_t seed;
  uint32_t max_characters, top_k, top, limit;
  int until, typos;
  char stops[8192]; /* or texts that are excluded */
  size_t stops_length;
} options;

/* Read a number from 0 to `most`; return whether it is one. */
static int number(const char *text, double most, double *value) {
  char *end;
  errno = 0;
  *value = strtod(text, &end);
  return *text && !*end && !errno && *value >= 0 && *value <= most;
}

static int parse(int count, char **words, options *o) {
  const char *untils[] = {"", "word", "line", "confidence"};
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  *o = (options){.temperature = 1, .top_p = 1, .max_characters = 40, .top = 10, .limit = 10, .text = "",
                 .context = "", .typos = -1};
  o->seed = ((uint64_t)now.tv_sec * 1000000007u + (uint64_t)now.tv_nsec + (uint64_t)getpid() * 977) >> 1;
  if (count < 3) return fail("a command and a file are needed", "nextchar-run --help");
  o->command = words[1], o->file = words[2];
  for (int i = 3, has_text = 0; i < count; i++) {
    const char *name = words[i];
    if (strncmp(name, "--", 2) || !name[2]) {
      if (has_text++) return fail("there is one text too many", name);
      o->text = name;
      continue;
    }
    if (i + 1 == count) return fail("an option lacks its value", name);
    const char *text = words[++i];
    double value = 0;
    int is_good = 1;
    if (!strcmp(name, "--temperature")) is_good = number(text, 10, &o->temperature);
    else if (!strcmp(name, "--top-p")) is_good = number(text, 1, &o->top_p);
    else if (!strcmp(name, "--min-p")) is_good = number(text, 1, &o->min_p);
    else if (!strcmp(name, "--false-alarms")) is_good = number(text, 1, &o->false_alarms);
    else if (!strcmp(name, "--max-characters"))
      is_good = number(text, 1e6, &value), o->max_characters = (uint32_t)value;
    else if (!strcmp(name, "--top-k")) is_good = number(text, 1e6, &value), o->top_k = (uint32_t)value;
    else if (!strcmp(name, "--top")) is_good = number(text, 1e6, &value), o->top = (uint32_t)value;
    else if (!strcmp(name, "--limit")) is_good = number(text, 50, &value), o->limit = (uint32_t)value;
    else if (!strcmp(name, "--typos")) is_good = number(text, 2, &value), o->typos = (int)value;
    else if (!strcmp(name, "--context")) o->context = text;
    else if (!strcmp(name, "--seed")) {
      char *end;
      errno = 0;
      o->seed = strtoull(text, &end, 10);
      is_good = *text >= '0' && *text <= '9' && !*end && !errno && o->seed >> 63 == 0;
    } else if (!strcmp(name, "--until")) {
      for (o->until = 3; o->until && strcmp(text, untils[o->until]);) o->until--;
      is_good = o->until > 0;
    } else if (!strcmp(name, "--stop") || !strcmp(name, "--exclude")) {
      size_t bytes = strlen(text) + 1;
      if (bytes > sizeof o->stops - o->stops_length) return fail("these texts are too long together", name);
      memcpy(o->stops + o->stops_length, text, bytes);
      o->stops_length += bytes;
    } else {
      return fail("there is no option of this name", name);
    }
    if (!is_good) return fail("an option has a value that it cannot have", name);
  }
  return 0;
}

static nc *open_model(const char *path) {
  struct stat status;
  int file = open(path, O_RDONLY);
  if (file < 0 || fstat(file, &status)) return fail(path, strerror(errno)), NULL;
  if (!S_ISREG(status.st_mode) || status.st_size < 8) return fail(path, "it is no packed model"), NULL;
  void *data = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
  if (data == MAP_FAILED) return fail(path, strerror(errno)), NULL;
  close(file);
  size_t wanted = nc_memory(data, (size_t)status.st_size);
  if (!wanted) return fail(path, nc_error()), NULL;
  void *memory = mmap(NULL, wanted, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return fail(path, strerror(errno)), NULL;
  nc *model = nc_open(data, (size_t)status.st_size, 0, 0, memory, wanted);
  if (!model) fail(path, nc_error());
  return model;
}

static int complete(nc *model, const options *o) {
  char buffer[256];
  int bytes;
  if (!nc_complete_start(model, o->text, strlen(o->text), o->max_characters, o->temperature,
                         (uint32_t)o->seed, (uint32_t)(o->seed >> 32), 0, o->top_k, o->top_p, o->min_p,
                         o->until, 2.0, o->stops, o->stops_length))
    return fail(nc_error(), "");
  while ((bytes = nc_complete_next(model, buffer, sizeof buffer)) > 0) {
    fwrite(buffer, 1, (size_t)bytes, stdout);
    if (isatty(1)) fflush(stdout);
  }
  putchar('\n');
  return 0;
}

static int print_json(int bytes, const char *json) {
  if (bytes < 0) return fail(nc_error(), "");
  puts(json);
  return 0;
}

static int score(nc *model, const options *o) {
  char *line = NULL, json[1024];
  size_t capacity = 0;
  ssize_t length;
  while ((length = getline(&line, &capacity, stdin)) >= 0) {
    if (length && line[length - 1] == '\n') length -= 1;
    if (nc_score(model, line, (size_t)length, o->false_alarms, json, sizeof json) < 0) return fail(nc_error(), "");
    puts(json);
  }
  free(line);
  return 0;
}

int main(int count, char **words) {
  static char json[1 << 20];
  options o;
  if (count > 1 && (!strcmp(words[1], "--help") || !strcmp(words[1], "-h"))) return fputs(USAGE, stdout), 0;
  int wrong = parse(count, words, &o);
  if (wrong) return wrong;
  nc *model = open_model(o.file);
  if (!model) return 2;
  if (!strcmp(o.command, "complete")) return complete(model, &o);
  if (!strcmp(o.command, "next"))
    return print_json(nc_next(model, o.text, strlen(o.text), o.temperature, o.top, json, sizeof json), json);
  if (!strcmp(o.command, "suggest"))
    return print_json(nc_suggest(model, o.text, strlen(o.text), o.context, strlen(o.context), o.stops, o.stops_length,
                                 o.limit, o.typos, json, sizeof json), json);
  if (!strcmp(o.command, "score")) return score(model, &o);
  if (!strcmp(o.command, "info")) return print_json(nc_info(model, json, sizeof json), json);
  return fail("there is no command of this name", o.command);
}
