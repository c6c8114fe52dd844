/** What to do instead of other tools' options that are not options here. */
export interface Instead {
  /** Names of options, separated by blanks. */
  names: string
  /** `option` stands for the name of the option here. */
  advice: (option: string) => string
  option?: string
}

export const use = (option: string) => `use ${option}`

/** Says what to do instead of an option. `spelt`: writes the name of an option here. */
export function adviceOf(rows: Instead[], name: string, spelt: (option: string) => string): string | undefined {
  const found = rows.find(({ names }) => names.split(' ').includes(name))
  return found?.advice(found.option === undefined ? '' : spelt(found.option))
}

/** Lists the options that there is advice for. */
export const namesOf = (rows: Instead[]) => rows.flatMap(({ names }) => names.split(' '))
