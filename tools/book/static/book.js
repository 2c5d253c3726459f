// Hide and show code: a button on each cell, one for the page, and the choice is kept. Wide formulas are made to fit.
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
        addSummaries();
    });

    // A displayed formula that is wider than its line gets smaller, down to three quarters; what is wider still scrolls.
    // All lines are measured before any is changed, so that a page of hundreds of formulas is laid out a few times only.
    const FULL = 102, LEAST = 76;
    let width = 0;
    function fit() {
        if (width === innerWidth) {
            return;
        }
        width = innerWidth;
        let open = [...document.querySelectorAll("div.math > mjx-container")].map((formula) => ({formula, size: FULL}));
        for (let round = 0; round < 4 && open.length; round++) {
            open.forEach(({formula, size}) => formula.style.setProperty("font-size", `${size}%`, "important"));
            open = open.map(({formula, size}) => {
                const line = formula.parentElement, wide = formula.getBoundingClientRect().width;
                return {formula, size, share: (wide - (line.scrollWidth - line.clientWidth)) / wide};
            }).filter(({size, share}) => share < 1 && size > LEAST).map(({formula, size, share}) => ({
                formula, size: Math.max(LEAST, Math.floor(size * share) - 1),
            }));
        }
    }
    const fitLater = () => window.MathJax?.startup?.promise?.then(fit);
    window.addEventListener("load", fitLater);
    window.addEventListener("resize", fitLater);

    // What the search shows of a page is its text, without the lists of contents and the buttons around it.
    function addSummaries() {
        if (typeof Search === "undefined") {
            return;
        }
        const whole = Search.htmlToText;
        Search.htmlToText = (text, anchor) => {
            const page = new DOMParser().parseFromString(text, "text/html");
            const around = ".bd-header-article, .bd-sidebar-secondary, #jb-print-docs-body, .chapter-meta, .prev-next-footer, div.math";
            page.querySelectorAll(around).forEach((part) => part.remove());
            page.querySelectorAll("span.math").forEach((part) => part.replaceWith("…"));
            return whole(page.documentElement.outerHTML, anchor);
        };
    }
})();
