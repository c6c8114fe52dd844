/** Words of a command line that is shown to be run again. */

/** A command line that a shell reads back as these words. */
export function quote(words: string[]): string {
  return words.map((word) => (/^[\w./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`)).join(' ')
}

/** The words without an option and its value. */
export function without(words: string[], option: string): string[] {
  return words.filter((word, i) => {
    if (word === option || word.startsWith(`${option}=`)) return false
    return words[i - 1] !== option || word.startsWith('--')
  })
}
