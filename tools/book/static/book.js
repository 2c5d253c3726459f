// Hide and show code: a button on each cell, one for the page, and the choice is kept.
(() => {
    const KEY = "nsf-nb-code";

    function fold(cell, hidden) {
        cell.classList.toggle("folded", hidden);
        const button = cell.querySelector(":scope > .fold");
        button.setAttribute("aria-expanded", String(!hidden));
        button.textContent = hidden ? "Show code" : "Hide code";
    }

    window.toggleCode = () => {
        const hidden = localStorage.getItem(KEY) !== "hidden";
        localStorage.setItem(KEY, hidden ? "hidden" : "shown");
        document.querySelectorAll("div.cell_input").forEach((cell) => fold(cell, hidden));
    };

    document.addEventListener("DOMContentLoaded", () => {
        const hidden = localStorage.getItem(KEY) === "hidden";
        document.querySelectorAll("div.cell_input").forEach((cell) => {
            const button = document.createElement("button");
            button.type = "button";
            button.className = "fold";
            button.addEventListener("click", () => fold(cell, !cell.classList.contains("folded")));
            cell.prepend(button);
            fold(cell, hidden);
        });
    });
})();
