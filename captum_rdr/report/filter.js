"use strict";
(() => {
  const form = document.getElementById("filters");
  const articles = [...document.querySelectorAll("article")];
  const rows = [...document.querySelectorAll("tr[data-query]")];
  const keys = ["label", "prediction", "significance"];
  const apply = () => {
    const wanted = keys.map((key) => [key, document.getElementById(key).value]);
    let shown = 0;
    articles.forEach((article, index) => {
      const fits = wanted.every(([key, value]) => !value || article.dataset[key] === value);
      article.hidden = rows[index].hidden = !fits;
      shown += fits;
    });
    document.getElementById("count").textContent =
      `${shown} of ${articles.length} queries shown`;
  };
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  apply(); // a browser may have kept what was chosen before a reload
})();
