/** Files that people choose by mistake where plain text is needed. */

// The first bytes, what the file is, and what to do.
const FILE_TYPES = [
  ["%PDF", "a PDF", "Extract its text first, for example with `pdftotext`."],
  ["PK\u0003\u0004", "a ZIP archive or an Office document", "Unpack it, or save the document as plain text."],
  ["\u0089PNG", "an image", "Choose a text file."],
  ["\u00ff\u00d8\u00ff", "an image", "Choose a text file."],
  ["\u007fELF", "a program", "Choose a text file."],
  ["\u00ff\u00fe", "UTF-16 text", "Convert it first: `iconv -f utf-16 -t utf-8`."],
  ["\u00fe\u00ff", "UTF-16 text", "Convert it first: `iconv -f utf-16 -t utf-8`."],
  ["\u00fd7zXZ", "compressed with xz", "Decompress it, or compress it with gzip instead."],
  ["BZh", "compressed with bzip2", "Decompress it, or compress it with gzip instead."],
];

/** Whether a file is gzipped. @param {Uint8Array} start its first bytes */
export function isGzip(start) {
  return start[0] === 0x1f && start[1] === 0x8b;
}

/** Return what a file is and what to do, if its first bytes show that it is not plain text. @param {Uint8Array} start */
export function knownFileType(start) {
  const latin1 = String.fromCharCode(...start.subarray(0, 8));
  const type = FILE_TYPES.find(([magic]) => latin1.startsWith(magic));
  return type && { name: type[1], advice: type[2] };
}

/** The same, where gzipped text cannot be read either. @param {Uint8Array} start */
export function rejectedFileType(start) {
  if (isGzip(start)) return { name: "compressed with gzip", advice: "Decompress it first: `gunzip`." };
  return knownFileType(start);
}
