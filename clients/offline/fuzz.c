/* Opens files that are damaged at random, with a checksum that fits, and uses what opens, with some texts and
   the file's last bytes: for libFuzzer, which changes one section at a time, or with -DALONE as a program: fuzz
   SEED SECONDS FILE... changes some bytes of the files again and again. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "nextchar.h"

#include "layout.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed);

#define OWN_BYTES 72 /* at the end of a file, which are a text, too */

static void sign(uint8_t *file, size_t size) {
  uint64_t sum = 0, word, length = size;
  if (size < PACK_HEADER_BYTES) return;
  uint32_t numbers[] = {PACK_MAGIC, PACK_VERSION, PACK_LAYOUT};
  memcpy(file, numbers, sizeof numbers);
  memcpy(file + 16, &length, 8);
  for (size_t at = PACK_CHECKED_FROM; at + 8 <= size; at += 8) {
    memcpy(&word, file + at, 8);
    uint64_t h = (word ^ ((uint64_t)at * 0x9E3779B97F4A7C15u)) * 0xD1B54A32D192ED03u;
    sum += h ^ (h >> 32);
  }
  memcpy(file + 24, &sum, 8);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  size -= size % 8;
  uint8_t *file = malloc(size ? size : 1);
  static char json[1 << 14];
  char piece[16], own[OWN_BYTES + 1] = "";
  memcpy(file, data, size);
  if (size > OWN_BYTES) memcpy(own, data + size - OWN_BYTES, OWN_BYTES);
  sign(file, size);
  size_t wanted = nc_memory(file, size);
  if (wanted && wanted < (size_t)1 << 28) {
    void *memory = malloc(wanted);
    nc *model = nc_open(file, size, 0, 0, memory, wanted);
    if (model) {
      const char *texts[] = {own, "the cat (sa", "17 times; na\xc3\xafve\n", "\xff", "mat, mat, mat,", "",
                             "2024-01-02T10:11:12.5Z sshd[123]: user=bob 10.0.0.300:80, 0xdeadBEEF is 40000%"};
      int chosen = 1 + (unsigned char)own[OWN_BYTES - 1] % 6;
      for (int i = 0; i <= chosen; i += chosen) { /* more would take too long */
        const char *text = texts[i];
        size_t length = strlen(text);
        if (nc_complete_start(model, text, length, 12, i * 0.4, (uint32_t)i, 0, 0, i == 3 ? 4 : 0,
                              i == 4 ? 0.9 : 1, 0, i % 4, 3, "e\0at", 5))
          while (nc_complete_next(model, piece, sizeof piece) > 0) {}
        nc_next(model, text, length, 1, 3, json, sizeof json);
        nc_suggest(model, text, length, "the\tcat", i ? 3 : 0, "sat\0the", i ? 7 : 0, 7, i ? 2 : -1, json, sizeof json);
        nc_score(model, text, length, i ? 0.01 : 0, json, sizeof json);
        nc_mask(model, text, length, json, sizeof json);
      }
      nc_info(model, json, sizeof json);
    }
    free(memory);
  }
  free(file);
  return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed) {
  uint32_t sections;
  uint64_t place[2];
  if (size < PACK_HEADER_BYTES) return LLVMFuzzerMutate(data, size, most);
  memcpy(&sections, data + PACK_COUNT_AT, 4);
  if (seed % 16 == 0 || !sections || PACK_HEADER_BYTES + (uint64_t)sections * PACK_ENTRY_BYTES > size) {
    LLVMFuzzerMutate(data + PACK_HEADER_BYTES, size - PACK_HEADER_BYTES, size - PACK_HEADER_BYTES);
    return size;
  }
  if (seed % 16 == 1 && size > OWN_BYTES) return LLVMFuzzerMutate(data + size - OWN_BYTES, OWN_BYTES, OWN_BYTES), size;
  memcpy(place, data + PACK_HEADER_BYTES + seed / 16 % sections * PACK_ENTRY_BYTES + 8, 16);
  if (place[0] > size || place[1] > size - place[0] || !place[1]) return LLVMFuzzerMutate(data, size, size);
  uint64_t from = seed / 4096 % place[1], length = place[1] - from < 64 ? place[1] - from : 64;
  LLVMFuzzerMutate(data + place[0] + from, length, length);
  return size;
}

#ifdef ALONE
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most) { return (void)data, (void)most, size; }

int main(int count, char **words) {
  static uint8_t data[1 << 24];
  srand((unsigned)atoi(words[1]));
  long rounds = 0;
  for (time_t end = time(NULL) + atoi(words[2]); time(NULL) < end; rounds++) {
    FILE *in = fopen(words[3 + rand() % (count - 3)], "rb");
    if (!in) return 1;
    size_t size = fread(data, 1, sizeof data, in);
    fclose(in);
    uint32_t sections;
    memcpy(&sections, data + PACK_COUNT_AT, 4);
    size_t table = PACK_HEADER_BYTES + sections * PACK_ENTRY_BYTES;
    for (int changes = 1 + rand() % 6; changes > 0; changes--) {
      /* the table of sections, the beginning or any place of a section */
      size_t at = rand() % 4 == 0 ? (size_t)rand() % table : (size_t)(rand() * 32768.0 + rand()) % size;
      if (rand() % 2 && sections) {
        uint64_t place[2];
        memcpy(place, data + PACK_HEADER_BYTES + (size_t)rand() % sections * PACK_ENTRY_BYTES + 8, 16);
        if (place[0] < size && place[1] && place[1] < size)
          at = (place[0] + (rand() % 2 ? (size_t)rand() % 64 : (size_t)rand() * 32768u % place[1])) % size;
      }
      int what = rand() % 4;
      uint32_t number = what == 0 ? 0xFFFFFFFF : what == 1 ? 0x7F800000 : what == 2 ? 0 : (uint32_t)rand() % 300;
      if (rand() % 2 && at + 4 <= size) memcpy(data + at / 4 * 4, &number, 4);
      else data[at] = (uint8_t)rand();
    }
    if (rand() % 8 == 0) size = (size_t)rand() * 32768u % size;
    LLVMFuzzerTestOneInput(data, size);
  }
  printf("%ld files\n", rounds);
  return 0;
}
#endif
