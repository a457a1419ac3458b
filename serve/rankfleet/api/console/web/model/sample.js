// A sample whose order changes from tier to tier: some documents share the words of the query but do not answer it,
// others answer it in words of their own.

export const SAMPLE = {
  query: "Which foods are rich in vitamin C?",
  budgetMs: 200,
  candidates: "",
  text: [
    "Rich people in the food trade: which of them are on the list this year?",
    "Vitamin C is lost when foods are boiled for long, which is why cooks prefer to steam them.",
    "Which vitamin is made in the skin when the sun shines? Vitamin D.",
    "Oranges, strawberries, peppers and broccoli are among the foods that give you the most vitamin C.",
    "C is a programming language, and rich in ways to make mistakes.",
    "A lack of vitamin C causes scurvy, which sailors knew and feared.",
    "Foods rich in iron include liver, lentils and spinach.",
    "A glass of orange juice has about 80 mg of vitamin C; a red pepper has twice as much.",
    "Pet foods are sold in tins which are rich in protein.",
    "Take vitamin C tablets with water, and no more than one a day.",
    "Blackcurrants have more vitamin C than any other fruit that grows in an English garden.",
    "One kiwi has all the ascorbic acid that an adult needs in a day.",
  ].join("\n"),
};
