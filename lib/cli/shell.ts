/** Command lines to paste into a shell. */

/** Writes a command line that a shell splits into these words. */
export function quote(words: string[]): string {
  return words.map((word) => (/^[\w./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`)).join(' ')
}

/** Removes an option and its value. */
export function without(words: string[], option: string): string[] {
  return words.filter((word, i) => {
    if (word === option || word.startsWith(`${option}=`)) return false
    return words[i - 1] !== option || word.startsWith('--')
  })
}
